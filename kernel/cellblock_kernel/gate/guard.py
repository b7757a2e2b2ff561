"""Stands between a kernel that is not trusted and everything else: its outputs show, never act.

Nothing passes outward as it came: each message is made anew of what its kind may say, for the
request that it answers, with that request's own header and address. It is next to the kernel, so
that all beyond it, the ledger too, is told of what passes only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..outputs.text import colourless
from . import reading
from .answers import REQUESTS, answer
from .ledger import Ledger
from .messages import Message
from .rules import Passage
from .shown import OUTPUTS, failure, publication, published, stream
from .turns import Cell, Turns

_REMEDY = "a kernel that is installed without --untrusted shows all"
_TOO_MUCH = "an output that takes too long to read"
_WIDGETS = "a widget"
_REASON = "not there: this kernel is not trusted (cellblock kernel install --untrusted)"
_STATES = ("busy", "idle")
_MOST_PROMPT = 10_000
_MOST_QUESTIONS = 1000


class Guard:
    """The rule for one untrusted kernel; ``passage`` is set before anything passes."""

    passage: Passage

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.clear()

    def clear(self) -> None:
        """Forget everything: another kernel takes the place of this one."""
        self._turns = Turns()
        self._questions: list[Cell] = []

    def inward(self, channel: str, message: Message) -> Iterable[Message]:
        """Let through what can be answered; say of the rest that it is not there."""
        kind = message.kind
        if channel == "stdin":
            return (message,) if kind == "input_reply" and self._was_asked() else ()
        if kind in REQUESTS and (channel == "shell" or kind != "execute_request"):
            request = self._ledger.find(message.id)
            if request is not None and kind == "execute_request":
                self._turns.add(request, message.content)
            return (message,)
        if kind.endswith("_request"):
            self._refuse(channel, message)
        elif kind.startswith("comm_"):
            self._refuse_comm(message)
        return ()

    def outward(self, channel: str, message: Message) -> Iterable[Message]:
        """Return what is made of a kernel's message."""
        if channel == "iopub":
            return self._published(message)
        if channel == "stdin":
            return self._asked(message)
        return self._replied(channel, message)

    def _published(self, message: Message) -> list[Message]:
        kind = message.kind
        if kind == "status":
            return self._status(message)
        if kind == "shutdown_reply":
            request = self._ledger.find(message.parent_id)
            if request is None or request.kind != "shutdown_request":
                return []
            told = answer(kind, reading.read(message) or {}, None) or {}
            return [publication(kind, told, request.message.header)]
        cell = self._turns.find(message.parent_id)
        return _shown(cell, message) if cell is not None and self._turns.has(cell) else []

    def _status(self, message: Message) -> list[Message]:
        state = (reading.read(message) or {}).get("execution_state")
        if state == "starting" and not message.parent_id:
            return [publication("status", {"execution_state": state}, {})]
        if state not in _STATES:
            return []
        cell = self._turns.find(message.parent_id)
        if cell is not None:
            if not self._turns.has(cell):
                return []
            last = self._last_words(cell) if state == "idle" else []
            return [*last, published(cell, "status", {"execution_state": state})]
        request = self._ledger.find(message.parent_id)
        if request is None:
            return []
        return [publication("status", {"execution_state": state}, request.message.header)]

    def _last_words(self, cell: Cell) -> list[Message]:
        """Return the text that was held back, and in one line what was left out."""
        words = [
            said
            for name, cleaner in cell.cleaners.items()
            for said in stream(cell, name, cleaner.finish())
        ]
        if not cell.silent:
            for line in cell.losses.lines(_REMEDY):
                words += stream(cell, "stderr", line)
        return words

    def _replied(self, channel: str, message: Message) -> list[Message]:
        kind = message.kind
        request = self._ledger.find(message.parent_id)
        if request is None or request.channel != channel or request.replied:
            return []
        if kind != request.kind.removesuffix("_request") + "_reply":
            return []
        cell = self._turns.find(message.parent_id)
        told = answer(kind, reading.read(message) or {}, cell)
        if told is None:
            return []
        to = request.message
        return [Message.of(kind, told, parent=to.header, identities=to.identities)]

    def _asked(self, message: Message) -> list[Message]:
        """Let a cell that may ask for input do so. Its turn is not looked at: iopub may be late."""
        cell = self._turns.find(message.parent_id)
        if message.kind != "input_request" or cell is None:
            return []
        self._forget_questions()
        if not cell.can_ask or cell.request.replied or len(self._questions) >= _MOST_QUESTIONS:
            return []
        content = reading.read(message) or {}
        self._questions.append(cell)
        prompt = colourless(reading.text(content.get("prompt"))[:_MOST_PROMPT])
        said = {"prompt": prompt, "password": content.get("password") is True}
        to = cell.request.message
        return [Message.of("input_request", said, parent=to.header, identities=to.identities)]

    def _was_asked(self) -> bool:
        """Return whether a cell waits for an answer, which it is given now."""
        self._forget_questions()
        return bool(self._questions and self._questions.pop())

    def _forget_questions(self) -> None:
        """Forget those whose cells have ended, by an interrupt for one."""
        self._questions = [cell for cell in self._questions if not cell.request.replied]

    def _refuse_comm(self, message: Message) -> None:
        """Answer as a kernel that does not know the comm's target."""
        comm = message.content.get("comm_id")
        self._say("iopub", publication("status", {"execution_state": "busy"}, message.header))
        if message.kind == "comm_open" and isinstance(comm, str):
            closed = {"comm_id": comm, "data": {}}
            self._say("iopub", publication("comm_close", closed, message.header))
        self._say("iopub", publication("status", {"execution_state": "idle"}, message.header))

    def _refuse(self, channel: str, message: Message) -> None:
        """Answer in the kernel's place, so that nobody waits."""
        kind = message.kind.removesuffix("_request") + "_reply"
        self._say("iopub", publication("status", {"execution_state": "busy"}, message.header))
        reply = Message.of(
            kind,
            _refusal(message.kind, message.content),
            parent=message.header,
            identities=message.identities,
        )
        self._say(channel, reply)
        self._say("iopub", publication("status", {"execution_state": "idle"}, message.header))

    def _say(self, channel: str, message: Message) -> None:
        self.passage.pass_outward(channel, message, self)


def _shown(cell: Cell, message: Message) -> list[Message]:
    """Return what is made of an output of the cell whose turn it is."""
    kind = message.kind
    if kind.startswith("comm_"):
        cell.losses.add([_WIDGETS])
    if kind not in OUTPUTS:
        return []
    content = reading.read(message)
    if content is None:
        cell.losses.add([_TOO_MUCH])
        return []
    return OUTPUTS[kind](cell, message, content)


def _refusal(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "debug_request":  # in the words of the Debug Adapter Protocol
        return {
            "type": "response",
            "seq": 0,
            "request_seq": reading.number(content.get("seq")),
            "success": False,
            "command": reading.text(content.get("command")),
            "message": _REASON,
            "body": {},
        }
    return {"status": "error", **failure({"ename": "NotTrusted", "evalue": _REASON})}
