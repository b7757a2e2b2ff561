"""The cells of an untrusted kernel, and whose turn it is: outputs belong to the cell that runs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..outputs.bundles import Losses
from ..outputs.text import TextCleaner
from . import reading
from .ledger import Request

_MOST_CELLS = 10_000
_MOST_DISPLAYS = 10_000
_MOST_AHEAD = 1000


@dataclass(slots=True, eq=False)
class Cell:
    """One execute request: what was asked for, and what has come of it so far."""

    request: Request
    number: int
    code: str
    silent: bool
    can_ask: bool
    expressions: tuple[str, ...]
    losses: Losses = field(default_factory=Losses)
    displays: dict[str, str] = field(default_factory=dict)
    cleaners: dict[str, TextCleaner] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether the kernel may be at another cell."""
        return self.request.replied or self.request.idle

    def cleaner(self, stream: str) -> TextCleaner:
        """Return what cleans a stream of it, over the borders of messages."""
        return self.cleaners.setdefault(stream, TextCleaner())

    def display(self, name: str, *, is_new: bool) -> str | None:
        """Return our name for a display of this cell; None for one that it has not made."""
        if is_new and len(self.displays) < _MOST_DISPLAYS:
            self.displays.setdefault(name, uuid.uuid4().hex)
        return self.displays.get(name)


class Turns:
    """The cells by ``msg_id``, and for each (sub)shell the one that it is at, or was at last.

    A shell goes through its cells in the order in which they were asked; it may leave some out,
    as after an error, and none has its turn twice. What a thread says after the end of its cell
    is still that cell's, until the next begins.
    """

    def __init__(self) -> None:
        self._cells: dict[str, Cell] = {}
        self._current: dict[str | None, Cell] = {}
        self._number = 0
        self._prune_at = _MOST_AHEAD

    def add(self, request: Request, content: Mapping[str, Any]) -> None:
        """Note a cell that is asked for."""
        if len(self._cells) >= self._prune_at:
            self._prune()
        self._number += 1
        self._cells[request.message.id] = Cell(
            request,
            self._number,
            reading.text(content.get("code")),
            bool(content.get("silent")),
            can_ask=bool(content.get("allow_stdin", True)),
            expressions=tuple(reading.mapping(content.get("user_expressions"))),
        )

    def find(self, msg_id: str) -> Cell | None:
        """Return a cell; None where none is known, also because it is long over."""
        return self._cells.get(msg_id)

    def has(self, cell: Cell) -> bool:
        """Return whether it is this cell's turn, which may begin now."""
        shell = cell.request.subshell
        current = self._current.get(shell)
        if current is cell:
            return True
        if current is not None and not (current.is_done and current.number < cell.number):
            return False
        self._current[shell] = cell
        return True

    def _prune(self) -> None:
        """Forget what is over, and beyond a number the oldest."""
        current = set(self._current.values())
        kept = {
            msg_id: cell
            for msg_id, cell in self._cells.items()
            if cell in current or not (cell.request.replied and cell.request.idle)
        }
        self._cells = dict(list(kept.items())[-_MOST_CELLS:])
        self._prune_at = len(self._cells) + _MOST_AHEAD
