"""Which cells were executed since the last commit, for the next one to tell.

A cell's source is what the front end asked, never what a kernel says: that can only say that a cell
was not executed, and its number. Within bounds the newest are kept; older ones are counted.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from cellblock_engine import CellblockError, ExecutedCell, Provenance

from .discretion import discreet, is_secret
from .hostcell import is_host_cell
from .ledger import Request
from .messages import Message

_LONGEST_SOURCE = 64 << 10
_MOST_CELLS, _MOST_SOURCES = 1000, 1 << 20
_MOST_ASKED, _MOST_ASKED_SOURCES = 1000, 8 << 20
_LONGEST_NAME = 255
_MOST_COUNTED = 10**9
_MOST_READ_BYTES = 4 << 20


@dataclass(frozen=True)
class Record:
    """What was executed up to a moment: ``text`` is a provenance, as the engine encodes it."""

    text: str
    last: int


class Recorder:
    """The rule that records cells; it stands next to the front end, and lets all pass."""

    def __init__(self, notebook: str = "") -> None:
        self._notebook = notebook
        self._asked: dict[str, ExecutedCell] = {}
        self._cells: deque[ExecutedCell] = deque()
        self._older = self._last = 0  # cells before those that are kept, and all that ever were
        self._sources = self._asked_sources = 0

    def inward(self, channel: str, message: Message) -> Iterable[Message]:
        """Note a cell that is asked for, if it is one that a notebook shows."""
        if channel == "shell" and message.kind == "execute_request" and message.id:
            content = message.content
            silent = bool(content.get("silent", False))
            source = content.get("code")
            if (
                isinstance(source, str)
                and source.strip()
                and not silent
                and content.get("store_history", True)
                and not is_host_cell(message)
            ):
                self._ask(message, source)
        return (message,)

    def outward(self, channel: str, message: Message) -> Iterable[Message]:
        """Note that a cell was executed."""
        if channel == "shell" and message.kind == "execute_reply":
            executed = message.content.get("status") != "aborted"
            self._settle(message.parent_id, self._count(message), executed=executed)
        return (message,)

    def record(self) -> Record:
        """Return what was executed since the last commit."""
        told = Provenance(self._notebook, tuple(self._cells), self._older)
        return Record(told.encode(), self._last)

    def forget(self, record: Record) -> None:
        """Begin anew after ``record``: a commit has told of it."""
        newer = min(self._last - record.last, len(self._cells))
        while len(self._cells) > newer:
            self._drop()
        self._older = 0

    def clear(self) -> None:
        """Forget everything: another container takes the place of this one."""
        self._cells.clear()
        self._older = self._sources = 0

    def leave(self, file: Path, lost: Iterable[Request] = ()) -> None:
        """Keep it for the kernel that starts again in the same container.

        The cells that were ``lost`` were being executed when this one ended.
        """
        for cell in lost:
            self._settle(cell.message.id, None, executed=True)
        # A commit tells less where this fails.
        with suppress(OSError), open(file, "w", encoding="utf-8", opener=_private) as opened:
            opened.write(self.record().text)

    def load(self, file: Path) -> None:
        """Go on where another has left it, if one has."""
        with suppress(OSError, CellblockError, ValueError):
            with file.open(encoding="utf-8") as opened:
                told = Provenance.decode(opened.read(_MOST_READ_BYTES))
            self._older += told.older_cells
            for cell in told.cells:
                self._keep(cell)

    def _ask(self, message: Message, source: str) -> None:
        if is_secret(source, message.metadata):
            cell = ExecutedCell(None, None, "secret")
        elif len(source) > _LONGEST_SOURCE:
            cell = ExecutedCell(None, None, "too long")
        else:
            cell = ExecutedCell(None, discreet(source))
        self._take(message.id)
        self._asked[message.id] = cell
        self._asked_sources += _length(cell)
        while len(self._asked) > _MOST_ASKED or self._asked_sources > _MOST_ASKED_SOURCES:
            self._take(next(iter(self._asked)))
            self._older += 1

    def _take(self, msg_id: str) -> ExecutedCell | None:
        cell = self._asked.pop(msg_id, None)
        self._asked_sources -= 0 if cell is None else _length(cell)
        return cell

    def _settle(self, msg_id: str, number: int | None, *, executed: bool) -> None:
        cell = self._take(msg_id)
        if cell is not None and executed:
            self._keep(ExecutedCell(number, cell.source, cell.omitted))

    def _keep(self, cell: ExecutedCell) -> None:
        self._last += 1
        self._cells.append(cell)
        self._sources += _length(cell)
        while len(self._cells) > _MOST_CELLS or self._sources > _MOST_SOURCES:
            self._drop()
            self._older += 1

    def _drop(self) -> None:
        self._sources -= _length(self._cells.popleft())

    def _count(self, reply: Message) -> int | None:
        """Return the cell's number; a kernel may say anything, a number twice even."""
        count = reply.content.get("execution_count")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count < _MOST_COUNTED:
            return None
        return None if self._cells and self._cells[-1].number == count else count


def notebook_name(environ: Mapping[str, str], folder: Path) -> str:
    """Return what a notebook is called below its folder; elsewhere only its last name.

    Jupyter's server says it in ``JPY_SESSION_NAME``; nothing where no front end does.
    """
    path = PurePath(environ.get("JPY_SESSION_NAME", ""))
    name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
    words = os.fspath(name).encode(errors="replace").decode()
    return words if words.isprintable() and len(words) <= _LONGEST_NAME and words != "." else ""


def _length(cell: ExecutedCell) -> int:
    return 0 if cell.source is None else len(cell.source)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
