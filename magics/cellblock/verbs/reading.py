"""history and diff: what images and containers are made of, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from cellblock_engine import ContainerNotFound, ImageNotFound, InvalidInput

from ..tables import Column, Table, View, size
from .common import JSON, NO_TRUNC, QUIET, quiet, style
from .declaration import Argument, Call, Verb
from .folders import by_folder
from .outcome import Chart, Identifiers, Listing

if TYPE_CHECKING:
    from cellblock_engine import Change, HistoryRow

_WORDS = 45
_PLOT = Argument(("--plot",), "draw it instead, in a notebook", "flag")
_SIGNS: tuple[tuple[Literal["A", "C", "D"], str], ...] = (
    ("A", "added"),
    ("C", "changed"),
    ("D", "deleted"),
)


@dataclass(frozen=True)
class StepRow:
    """A step of an image's making, and the layer it added if it did."""

    created: datetime | None
    created_by: str
    comment: str
    author: str
    size_bytes: int
    diffid: str | None
    files: int | None
    cells: str | None
    packages: str | None


def step_row(step: HistoryRow) -> StepRow:
    """Return the row of a step."""
    return StepRow(
        created=step.created,
        created_by=step.created_by,
        comment=step.comment,
        author=step.author,
        size_bytes=step.size_bytes,
        diffid=None if step.diffid is None else str(step.diffid),
        files=step.files,
        cells=step.cells,
        packages=step.packages,
    )


_STEPS = (
    Column("LAYER", lambda row, view: view.identifier(row.diffid or "<none>")),
    Column("CREATED", lambda row, view: view.ago(row.created) or "N/A"),
    Column("CREATED BY", lambda row, view: _shown(row.created_by, view)),
    Column("SIZE", lambda row, _: size(row.size_bytes)),
    Column("FILES", lambda row, _: "" if row.files is None else str(row.files)),
    Column("CELLS", lambda row, view: _shown(row.cells, view)),
    Column("PACKAGES", lambda row, view: _shown(row.packages, view)),
    Column("COMMENT", lambda row, _: row.comment),
)
_CHANGES = (
    Column("CHANGE", lambda row, _: row.change),
    Column("KIND", lambda row, _: row.kind),
    Column("SIZE", lambda row, _: size(row.size_bytes)),
    Column("PATH", lambda row, _: row.path),
)


def history(call: Call) -> Listing | Identifiers | Chart:
    """List the steps in which an image was made, the newest first."""
    given = call.arguments
    _check_plot(call, alone=not (given.quiet or given.json))
    if not (given.quiet or given.plot):
        return steps(call, given.image)
    rows = tuple(map(step_row, call.engine.history(given.image)))
    if quiet(call):
        layers = (row.diffid for row in rows if row.diffid is not None)
        cut = None if given.no_trunc else len("sha256:") + 12
        return Identifiers(tuple(layer[:cut].removeprefix("sha256:") for layer in layers))
    return _by_layer(given.image, rows)


def steps(call: Call, image: str) -> Listing:
    """Return the table of an image's steps."""
    rows = tuple(map(step_row, call.engine.history(image)))
    return Listing(Table(StepRow, _STEPS, rows), style(call))


def diff(call: Call) -> Listing | Chart:
    """List what a container changed of its image, or what differs between two images."""
    names = call.arguments.names
    _check_plot(call, alone=not call.arguments.json)
    if len(names) > 2:
        raise InvalidInput("diff takes a container, or two images")
    rows = call.engine.diff_images(*names) if names[1:] else _of_container(call, names[0])
    if call.arguments.plot:
        return _by_folder(" and ".join(names), rows)
    return changed(call, rows)


def _of_container(call: Call, name: str) -> tuple[Change, ...]:
    try:
        return call.engine.diff(name)
    except ContainerNotFound:
        if not _is_image(call, name):
            raise
    raise InvalidInput(f"{name} is an image: diff takes a container, or two images")


def _is_image(call: Call, name: str) -> bool:
    try:
        call.engine.image(name)
    except (ImageNotFound, InvalidInput):
        return False
    return True


def changed(call: Call, rows: tuple[Change, ...]) -> Listing:
    """Return the table of changes."""
    from cellblock_engine import Change  # noqa: PLC0415 - help must not load the engine

    return Listing(Table(Change, _CHANGES, rows), "json" if call.arguments.json else "text")


def _by_layer(image: str, rows: Iterable[StepRow]) -> Chart:
    """Return a bar for each layer, the top one first; they are numbered from the bottom."""
    layers = [row for row in rows if row.diffid is not None]
    numbered = zip(range(len(layers), 0, -1), layers, strict=True)
    labels = tuple(f"{number}  {_cut(row.created_by)}" for number, row in numbered)
    return Chart(f"Layers of {image}", labels, (("size", tuple(row.size_bytes for row in layers)),))


def _by_folder(names: str, rows: Iterable[Change]) -> Chart:
    folders = by_folder(rows)
    series = tuple((word, tuple(sums[sign] for sums in folders.values())) for sign, word in _SIGNS)
    return Chart(f"Changes in {names}", tuple(folders), series, "treemap")


def _check_plot(call: Call, *, alone: bool) -> None:
    if call.arguments.plot and not alone:
        raise InvalidInput("--plot draws, instead of listing: leave out -q and --json")


def _shown(words: str | None, view: View) -> str:
    return (words or "") if view.wide else _cut(words or "")


def _cut(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= _WORDS else f"{words[: _WORDS - 1]}…"


VERBS = (
    Verb(
        "history",
        "Show the steps in which an image was made",
        (
            QUIET,
            NO_TRUNC,
            JSON,
            _PLOT,
            Argument(("image",), "reference or id", metavar="IMAGE", subject="image"),
        ),
        history,
    ),
    Verb(
        "diff",
        "Show what a container changed, or how two images differ",
        (
            JSON,
            _PLOT,
            Argument(("names",), "a container, or two images", "some", "NAME", subject="either"),
        ),
        diff,
    ),
)
