"""stats and update: what containers use, and what they may use."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellblock_engine import Conflict, ContainerNotFound, Limits, format_bytes

from ..tables import Column, Table
from .common import CONTAINERS, JSON, NO_TRUNC, each, style
from .declaration import Argument, Call, Verb
from .limits import (
    CPU_SHARES,
    CPUS,
    MEMORY,
    MEMORY_RESERVATION,
    MEMORY_SWAP,
    PIDS_LIMIT,
)
from .outcome import Acknowledged, Listing

if TYPE_CHECKING:
    from cellblock_engine import Container, Stats

_BETWEEN_READINGS_S = 0.2


@dataclass(frozen=True)
class UsageRow:
    """What a container uses, and may; ``cpus`` are processors, on average between two readings.

    The stalls are since its start.
    """

    container_id: str
    name: str
    cpus: float | None
    cpus_limit: float | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    memory_peak_bytes: int | None
    cpu_seconds: float | None
    pids: int | None
    pids_limit: int | None
    memory_stalled_seconds: float | None = None
    cpu_stalled_seconds: float | None = None
    io_stalled_seconds: float | None = None


def usage_row(container: Container, earlier: Stats, now: Stats) -> UsageRow:
    """Return the row of a container, from two readings."""
    cpus = now.cpus_since(earlier)
    return UsageRow(
        container_id=container.id,
        name=container.name,
        cpus=None if cpus is None else round(cpus, 4),
        cpus_limit=now.cpus_limit,
        memory_bytes=now.memory_bytes,
        memory_limit_bytes=now.memory_limit_bytes,
        memory_peak_bytes=now.memory_peak_bytes,
        cpu_seconds=now.cpu_seconds,
        pids=now.pids,
        pids_limit=now.pids_limit,
        memory_stalled_seconds=now.memory_stalled_s,
        cpu_stalled_seconds=now.cpu_stalled_s,
        io_stalled_seconds=now.io_stalled_s,
    )


def _amount(count: int | None) -> str:
    return "--" if count is None else format_bytes(count)


def _share(part: float | None, whole: float | None) -> str:
    return "--" if part is None or not whole else f"{part / whole:.2%}"


def _memory(row: UsageRow) -> str:
    limit = "no limit" if row.memory_limit_bytes is None else format_bytes(row.memory_limit_bytes)
    return f"{_amount(row.memory_bytes)} / {limit}"


_COLUMNS = (
    Column("CONTAINER ID", lambda row, view: view.identifier(row.container_id)),
    Column("NAME", lambda row, _: row.name),
    Column("CPU %", lambda row, _: _share(row.cpus, 1)),
    Column("MEM USAGE / LIMIT", lambda row, _: _memory(row)),
    Column("MEM %", lambda row, _: _share(row.memory_bytes, row.memory_limit_bytes)),
    Column("PIDS", lambda row, _: "--" if row.pids is None else str(row.pids)),
)


def stats(call: Call) -> Listing:
    """List what containers use, those that are named or all that run, from two readings."""
    named = call.arguments.containers
    # Of all that run, those that end meanwhile are left out.
    expected = () if named else (Conflict, ContainerNotFound)
    names = named or [info.id for info in call.engine.containers() if info.status == "running"]
    first: list[tuple[Container, Stats]] = []
    for name in names:
        with suppress(*expected):
            container = call.engine.container(name)
            first.append((container, container.stats()))
    time.sleep(_BETWEEN_READINGS_S)
    rows = []
    for container, earlier in first:
        with suppress(*expected):
            rows.append(usage_row(container, earlier, container.stats()))
    return Listing(Table(UsageRow, _COLUMNS, tuple(rows)), style(call))


def update(call: Call) -> Acknowledged:
    """Change limits of containers."""
    given = call.arguments
    limits = Limits(
        given.memory,
        given.cpus,
        given.pids_limit,
        given.memory_swap,
        cpu_shares=given.cpu_shares,
        memory_reservation=given.memory_reservation,
    )

    def act(name: str) -> list[str]:
        call.engine.container(name).update(limits)
        return [name]

    return each(given.containers, act)


VERBS = (
    Verb(
        "stats",
        "Show what running containers use, all or some",
        (
            NO_TRUNC,
            JSON,
            Argument(
                ("containers",),
                "names, ids or starts of ids",
                "any",
                "CONTAINER",
                subject="container",
            ),
        ),
        stats,
    ),
    Verb(
        "update",
        "Change limits of containers, also while they run",
        (
            MEMORY,
            MEMORY_SWAP,
            MEMORY_RESERVATION,
            CPUS,
            CPU_SHARES,
            PIDS_LIMIT,
            CONTAINERS,
        ),
        update,
    ),
)
