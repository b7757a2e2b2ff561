"""Tables as data, and as aligned text.

A table is rows (frozen dataclasses of one type: the fields are what JSON and DataFrames show) and
columns (how a terminal shows a row). It does not know what an image or a container is, and does
not print. Text from images and registries is shown without its control characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .documents import flat

_GAP = "   "
_ID_WIDTH = 12
_COMMAND_WIDTH = 20
# C0 and C1 controls, line separators, and the marks that reorder text
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_DAY = 86400
_AGES: tuple[tuple[float, int, str, str], ...] = (
    # below so many seconds, count in a unit of so many, called this if one and that if more
    (60, 1, "1 second", "seconds"),
    (3600, 60, "About a minute", "minutes"),
    (48 * 3600, 3600, "About an hour", "hours"),
    (14 * _DAY, _DAY, "", "days"),
    (60 * _DAY, 7 * _DAY, "", "weeks"),
    (730 * _DAY, 30 * _DAY, "", "months"),
    (float("inf"), 365 * _DAY, "", "years"),
)


@dataclass(frozen=True)
class View:
    """How much a terminal shows: times relative to ``now``, identifiers whole if ``wide``."""

    now: datetime
    wide: bool = False

    def identifier(self, text: str) -> str:
        """Return an identifier, cut to the 12 digits that people use."""
        return text if self.wide else text.removeprefix("sha256:")[:_ID_WIDTH]

    def command(self, text: str) -> str:
        """Return a command in quotation marks, cut to 20 characters."""
        cut = len(text) > _COMMAND_WIDTH and not self.wide
        return f'"{text[: _COMMAND_WIDTH - 1]}…"' if cut else f'"{text}"'

    def ago(self, time: datetime | None) -> str:
        """Return a time as Docker would: ``3 hours ago``; nothing for None."""
        return "" if time is None else f"{duration((self.now - time).total_seconds())} ago"


@dataclass(frozen=True)
class Column:
    """A column of a terminal's table."""

    title: str
    show: Callable[[Any, View], str]


@dataclass(frozen=True)
class Table:
    """Rows, all of ``row_type``, and the columns in which a terminal shows them.

    ``notes`` returns lines that a terminal shows below a row.
    """

    row_type: type
    columns: tuple[Column, ...]
    rows: tuple[Any, ...]
    notes: Callable[[Any], tuple[str, ...]] = lambda _: ()


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


def text(table: Table, view: View) -> str:
    """Return the aligned lines of a table, its titles first; without a line end."""
    lines = [[column.title for column in table.columns]]
    lines += [[plain(column.show(row, view)) for column in table.columns] for row in table.rows]
    titles, *rows = aligned(lines).split("\n")
    shown = [titles]
    for row, line in zip(table.rows, rows, strict=True):
        shown += [line, *(f"{_GAP}{plain(note)}" for note in table.notes(row))]
    return "\n".join(shown)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return cells, line by line, each column as wide as its widest cell."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in lines
    )


def facts(document: Mapping[str, object]) -> str:
    """Return names and values as aligned lines; nested names are dotted, what is None left out."""
    known = {name: value for name, value in flat(document).items() if value is not None}
    return aligned([[f"{name}:", plain(_words(value))] for name, value in known.items()])


def _words(value: object) -> str:
    if value in ([], {}):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def plain(words: str) -> str:
    """Return text that cannot steer a terminal: control characters become U+FFFD."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", words)


def counted(number: int, noun: str) -> str:
    """Return ``1 layer`` or ``2 layers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(count: int) -> str:
    """Return bytes as Docker's tables do, in powers of 1000 and three digits: ``124MB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.3g}TB" if amount < 999.5 else f"{amount:.0f}TB"


def duration(seconds: float) -> str:
    """Return a duration in one rough unit, as Docker does: ``About a minute``, ``3 hours``."""
    if seconds < 1:
        return "Less than a second"
    _, unit, one, many = next(age for age in _AGES if seconds < age[0])
    count = int(seconds // unit)
    return one if count == 1 else f"{count} {many}"
