"""Tells a cell that failed because its container's pids limit let nothing more start.

Such a limit ends no kernel: the cell sees Python's BlockingIOError, or "can't start new thread",
which name no limit. The kernel's counter of refusals is looked at when a cell begins and fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from cellblock_engine import CellblockError, PidsExceeded, Stats

from .certificate import advice
from .ledger import Ledger
from .messages import Message, topic


class Counted(Protocol):
    """A container, as far as it is asked what it uses."""

    def stats(self) -> Stats:
        """Return what it uses now. Raises CellblockError when it does not run."""


class Refusals:
    """A rule beside the ledger, which knows what is a cell."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._container: Counted | None = None
        self._before: dict[str, int | None] = {}

    def serve(self, container: Counted) -> None:
        """Look at this container's counter from now on."""
        self._container = container
        self._before.clear()

    def inward(self, channel: str, message: Message) -> Iterable[Message]:  # noqa: ARG002 - a rule's
        """Let all pass. A cell that the kernel is free for begins now: it may be at it at once."""
        if message.kind == "execute_request" and not self._ledger.lost_cells():
            self._look(message.id)
        return (message,)

    def outward(self, channel: str, message: Message) -> Iterable[Message]:
        """Let all pass, and a line after the error of a cell that was refused something."""
        yield message
        if channel != "iopub":
            return
        cell = message.parent_id
        if message.kind == "status" and message.content.get("execution_state") == "busy":
            self._note(cell)
        elif message.kind == "error" and (before := self._before.get(cell)) is not None:
            self._before[cell] = None
            now = self._looked()
            if now is not None and now.pids_limit is not None and now.pids_refused > before:
                verdict = PidsExceeded(limit=now.pids_limit, refused=now.pids_refused - before)
                content = {"name": "stderr", "text": f"cellblock: {advice(verdict)}\n"}
                yield Message.of(
                    "stream", content, parent=message.parent, identities=topic("stream")
                )

    def _note(self, cell: str) -> None:
        """Look at the counter as a cell begins: once for each, whatever the kernel says of it."""
        request = self._ledger.find(cell)
        if request is None or request.kind != "execute_request" or cell in self._before:
            return
        self._look(cell)

    def _look(self, cell: str) -> None:
        now = self._looked()
        self._before = {each: was for each, was in self._before.items() if self._ledger.find(each)}
        self._before[cell] = None if now is None or now.pids_limit is None else now.pids_refused

    def _looked(self) -> Stats | None:
        try:
            return None if self._container is None else self._container.stats()
        except CellblockError:  # it has just ended, or is of a monitor that cannot tell
            return None
