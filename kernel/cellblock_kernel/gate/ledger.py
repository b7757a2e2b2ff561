"""What has been asked of a kernel and is not done: who waits for what.

A request is open until its reply has been sent and ``status: idle`` published for it. The ledger
only looks on. It stands next to the kernel, so that it knows what was really asked and answered;
between them is only the guard before a kernel that is not trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .messages import Message

_MOST_OPEN = 10_000
_MOST_COMMS = 10_000
_MOST_ID = 200


@dataclass(slots=True)
class Request:
    """One request, without its content.

    ``stops`` says that its failure aborts what is queued behind it. ``begun`` says that the kernel
    is at it, or was: it has published ``status: busy`` for it.
    """

    channel: str
    message: Message
    subshell: str | None = None
    stops: bool = False
    begun: bool = False
    replied: bool = False
    idle: bool = False

    @property
    def kind(self) -> str:
        """Its ``msg_type``."""
        return self.message.kind


class Ledger:
    """The open requests of one kernel, by ``msg_id``, oldest first, and its open comms."""

    def __init__(self) -> None:
        self._open: dict[str, Request] = {}
        self._comms: dict[str, None] = {}
        self.shutdown_asked = False
        """Whether a front end has told the kernel to end."""
        self.answers = False
        """Whether the kernel has said anything: before, an interrupt would end it."""

    def find(self, msg_id: str) -> Request | None:
        """Return the open request of this id."""
        return self._open.get(msg_id)

    def open_requests(self) -> tuple[Request, ...]:
        """Return all that is open, the oldest first."""
        return tuple(self._open.values())

    def running_cells(self) -> tuple[Request, ...]:
        """Return the cells that the kernel is at: more than one with subshells."""
        return tuple(
            request
            for request in self._open.values()
            if request.kind == "execute_request" and request.begun and not request.replied
        )

    def lost_cells(self) -> tuple[Request, ...]:
        """Return the cells that a kernel which has ended was at.

        One that ended at once has not said that it was at any: then it is the oldest.
        """
        waiting = [
            request
            for request in self._open.values()
            if request.kind == "execute_request" and not request.replied
        ]
        return self.running_cells() or tuple(waiting[:1])

    def open_comms(self) -> tuple[str, ...]:
        """Return the ids of the comms that either side has opened and none has closed."""
        return tuple(self._comms)

    def clear(self) -> None:
        """Forget everything: another kernel takes the place of this one."""
        self._open.clear()
        self._comms.clear()
        self.shutdown_asked = self.answers = False

    def inward(self, channel: str, message: Message) -> Iterable[Message]:
        """Note what is asked."""
        if channel in ("shell", "control"):
            kind = message.kind
            self.shutdown_asked |= kind == "shutdown_request"
            if kind.startswith("comm_"):
                self._note_comm(kind, message)
            if kind.endswith("_request") and message.id:
                if len(self._open) >= _MOST_OPEN:
                    del self._open[next(iter(self._open))]
                slim = message.but(content={}, buffers=[])
                self._open[message.id] = Request(
                    channel, slim, message.subshell, stops_on_error(message)
                )
        return (message,)

    def outward(self, channel: str, message: Message) -> Iterable[Message]:
        """Note what is answered, begun and done."""
        if channel in ("shell", "control"):
            self.answers = True
            request = self._open.get(message.parent_id)
            if request is not None and request.channel == channel:
                request.replied = True
                self._settle(message.parent_id, request)
        elif channel == "iopub":
            kind = message.kind
            if kind == "status":
                self._note_status(message)
            elif kind.startswith("comm_"):
                self._note_comm(kind, message)
        return (message,)

    def _note_status(self, message: Message) -> None:
        self.answers = True
        request = self._open.get(message.parent_id)
        if request is None:
            return
        state = message.content.get("execution_state")
        if state == "busy":
            request.begun = True
        elif state == "idle":
            request.idle = True
            self._settle(message.parent_id, request)

    def _settle(self, msg_id: str, request: Request) -> None:
        if request.replied and request.idle:
            del self._open[msg_id]

    def _note_comm(self, kind: str, message: Message) -> None:
        comm = message.content.get("comm_id")
        if not isinstance(comm, str) or len(comm) > _MOST_ID:
            return
        if kind == "comm_close":
            self._comms.pop(comm, None)
        elif kind == "comm_open" and len(self._comms) < _MOST_COMMS:
            self._comms[comm] = None


def stops_on_error(request: Message) -> bool:
    """Return whether it is a cell whose failure aborts what is queued behind, as in ipykernel."""
    if request.kind != "execute_request":
        return False
    content = request.content
    return bool(content.get("stop_on_error", True)) and not content.get("silent", False)
