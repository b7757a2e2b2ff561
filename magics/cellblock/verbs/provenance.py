"""provenance: the notebook cells that an image was made by, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..tables import Column, Table, View
from .common import JSON, NO_TRUNC, style
from .declaration import Argument, Call, Verb
from .outcome import Listing

if TYPE_CHECKING:
    from cellblock_engine import Provenance

_WORDS = 60


@dataclass(frozen=True)
class CellRow:
    """A cell that was executed for a step of an image; steps are counted from 1, the oldest.

    ``source`` is missing where it was not recorded, and ``omitted`` says why.
    """

    step: int
    notebook: str | None
    cell: int | None
    source: str | None
    omitted: str | None


def _source(row: CellRow, view: View) -> str:
    if row.source is None:
        return f"<{row.omitted or 'not recorded'}>"
    lines = row.source.strip().splitlines() or [""]
    if view.wide:
        return " ↵ ".join(lines)
    is_cut = len(lines) > 1 or len(lines[0]) > _WORDS
    return f"{lines[0][: _WORDS - 1]}…" if is_cut else lines[0]


_COLUMNS = (
    Column("STEP", lambda row, _: str(row.step)),
    Column("NOTEBOOK", lambda row, _: row.notebook or ""),
    Column("CELL", lambda row, _: "?" if row.cell is None else str(row.cell)),
    Column("SOURCE", _source),
)


def provenance(call: Call) -> Listing:
    """List the cells that were executed for each commit, in the order of their ends."""
    return executed(call, call.arguments.image)


def executed(call: Call, image: str) -> Listing:
    """Return the table of the cells that an image tells of."""
    steps = call.engine.provenance(image)[::-1]
    return Listing(Table(CellRow, _COLUMNS, tuple(_rows(steps))), style(call))


def _rows(steps: Sequence[Provenance | None]) -> Iterator[CellRow]:
    for number, known in enumerate(steps, 1):
        if known is not None:
            for cell in known.cells:
                notebook = known.notebook or None
                yield CellRow(number, notebook, cell.number, cell.source, cell.omitted)


VERBS = (
    Verb(
        "provenance",
        "Show the notebook cells that an image was made by",
        (
            NO_TRUNC,
            JSON,
            Argument(("image",), "reference or id", metavar="IMAGE", subject="image"),
        ),
        provenance,
    ),
)
