"""What the actions of verbs return: data for a surface to render, never text that is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from cellblock_engine import Attached, CellblockError, LogRecord

    from ..tables import Table


@dataclass(frozen=True)
class Listing:
    """A table; ``wide`` shows identifiers and commands in full.

    ``exit_status`` is the command's, where the table tells of something that is not well.
    """

    table: Table
    style: Literal["text", "wide", "json"]
    exit_status: int = 0


@dataclass(frozen=True)
class Identifiers:
    """What ``-q`` lists: identifiers only."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Started:
    """A container that now runs by itself; ``notes`` are worth knowing, for people only."""

    container_id: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Acknowledged:
    """What was done, a line each, and what could not be done of the same list.

    ``notes`` are worth knowing, for people only.
    """

    lines: tuple[str, ...]
    errors: tuple[CellblockError, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Facts about one thing, for people unless ``style`` says otherwise."""

    document: Mapping[str, object]
    style: Literal["text", "json"]


@dataclass(frozen=True)
class Inspection:
    """Everything known of some things, by the names they were asked for."""

    documents: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Chart:
    """Bars of bytes, from the top down, or tiles of a treemap, the largest first.

    Of each series (its name and values) there is a part in each.
    """

    title: str
    labels: tuple[str, ...]
    series: tuple[tuple[str, tuple[int, ...]], ...]
    form: Literal["bars", "treemap"] = "bars"


@dataclass(frozen=True)
class Records:
    """What a container wrote."""

    records: Iterable[LogRecord]
    timestamps: Literal["shown", "hidden"]


@dataclass(frozen=True)
class Foreground:
    """A process to be started and followed to its end; ``start`` gives it to the surface.

    ``stdin`` says where its input comes from: from the caller, or from nowhere. ``notes`` are worth
    knowing, for people only.
    """

    start: Callable[[], Attached]
    words: tuple[str, ...]
    stdin: Literal["caller", "empty"] = "empty"
    notes: tuple[str, ...] = ()


Outcome: TypeAlias = (
    Listing
    | Identifiers
    | Started
    | Acknowledged
    | Facts
    | Inspection
    | Chart
    | Records
    | Foreground
)
