"""ps, logs, stop, kill, rm, wait: what is done to containers that are there."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from cellblock_engine import InvalidInput, parse_signal

from ..tables import Column, Table, View, duration
from .common import CONTAINER, CONTAINERS, JSON, NO_TRUNC, QUIET, each, quiet, style
from .declaration import Argument, Call, Verb
from .outcome import Acknowledged, Identifiers, Listing, Records

if TYPE_CHECKING:
    from cellblock_engine import ContainerInfo, LogRecord


@dataclass(frozen=True)
class ContainerRow:
    """A container and how it is."""

    container_id: str
    name: str
    image: str
    command: tuple[str, ...]
    status: str
    exit_code: int | None
    verdict: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    pid: int | None
    network: str
    memory_limit_bytes: int | None
    cpus_limit: float | None
    pids_limit: int | None


def row(info: ContainerInfo) -> ContainerRow:
    """Return the row of a container."""
    return ContainerRow(
        container_id=info.id,
        name=info.name,
        image=info.image,
        command=tuple(info.argv),
        status=info.status,
        exit_code=info.exit_code,
        verdict=info.verdict,
        created=info.created_at,
        started=info.started_at,
        finished=info.finished_at,
        pid=info.pid,
        network=info.network,
        memory_limit_bytes=info.limits.memory_bytes,
        cpus_limit=info.limits.cpus,
        pids_limit=info.limits.pids,
    )


def status(row: ContainerRow, view: View) -> str:
    """Return Docker's words for how a container is, and what ended it if not its command."""
    if row.status == "running" and row.started is not None:
        return f"Up {duration((view.now - row.started).total_seconds())}"
    if row.status == "exited":
        reason = f" ({row.verdict.partition(':')[0]})" if row.verdict else ""
        return f"Exited ({row.exit_code}) {view.ago(row.finished)}{reason}"
    return row.status.capitalize()


_COLUMNS = (
    Column("CONTAINER ID", lambda row, view: view.identifier(row.container_id)),
    Column("IMAGE", lambda row, _: row.image),
    Column("COMMAND", lambda row, view: view.command(shlex.join(row.command))),
    Column("CREATED", lambda row, view: view.ago(row.created)),
    Column("STATUS", status),
    Column("NAMES", lambda row, _: row.name),
)


def ps(call: Call) -> Listing | Identifiers:
    """List running containers, or all; the newest first."""
    everything = call.arguments.all
    found = [
        row(info) for info in call.engine.containers() if everything or info.status == "running"
    ]
    if quiet(call):
        width = None if call.arguments.no_trunc else 12
        return Identifiers(tuple(row.container_id[:width] for row in found))
    return Listing(Table(ContainerRow, _COLUMNS, tuple(found)), style(call))


def logs(call: Call) -> Records:
    """Return what a container wrote, or the end of it."""
    records: Iterable[LogRecord] = call.engine.container(call.arguments.container).logs()
    if call.arguments.tail is not None:
        records = last_lines(tuple(records), call.arguments.tail)
    return Records(records, "shown" if call.arguments.timestamps else "hidden")


def stop(call: Call) -> Acknowledged:
    """Ask containers to end, and end them once the grace has passed."""

    def act(name: str) -> list[str]:
        call.engine.container(name).stop(grace_s=call.arguments.time)
        return [name]

    return each(call.arguments.containers, act)


def kill(call: Call) -> Acknowledged:
    """Send a signal to containers."""

    def act(name: str) -> list[str]:
        call.engine.container(name).kill(call.arguments.signal)
        return [name]

    return each(call.arguments.containers, act)


def rm(call: Call) -> Acknowledged:
    """Remove containers."""

    def act(name: str) -> list[str]:
        call.engine.container(name).remove(force=call.arguments.force)
        return [name]

    return each(call.arguments.containers, act)


def wait(call: Call) -> Acknowledged:
    """Wait for containers to end; the lines are their exit statuses."""

    def act(name: str) -> list[str]:
        return [str(call.engine.container(name).wait().exit_code)]

    return each(call.arguments.containers, act)


def last_lines(records: Sequence[LogRecord], count: int) -> tuple[LogRecord, ...]:
    """Return the end of a log: its last ``count`` lines, of whichever stream."""
    kept: list[LogRecord] = []
    for record in reversed(records):
        for piece in reversed(record.data.splitlines(keepends=True)):
            if piece.endswith(b"\n") or not kept:
                if not count:
                    return tuple(reversed(kept))
                count -= 1
            kept.append(replace(record, data=piece))
    return tuple(reversed(kept))


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise InvalidInput(f"{text!r} is not a number of lines: write a whole number or all")
    return int(text)


def _seconds(text: str) -> float:
    if not text.isdecimal():
        raise InvalidInput(f"{text!r} is not a grace period: write whole seconds")
    return float(text)


VERBS = (
    Verb(
        "ps",
        "List containers",
        (
            Argument(("-a", "--all"), "also those that have ended", "flag"),
            QUIET,
            NO_TRUNC,
            JSON,
        ),
        ps,
    ),
    Verb(
        "logs",
        "Show what a container wrote",
        (
            Argument(("-n", "--tail"), "only the last N lines", metavar="N", convert=_count),
            Argument(("-t", "--timestamps"), "show when it was written", "flag"),
            CONTAINER,
        ),
        logs,
    ),
    Verb(
        "stop",
        "Ask containers to end, then end them",
        (
            Argument(
                ("-t", "--time"),
                "seconds to wait in between (10)",
                metavar="S",
                convert=_seconds,
                default=10.0,
            ),
            CONTAINERS,
        ),
        stop,
    ),
    Verb(
        "kill",
        "Send a signal to containers",
        (
            Argument(
                ("-s", "--signal"),
                "name or number (KILL)",
                metavar="SIGNAL",
                convert=parse_signal,
                default=signal.SIGKILL,
                values=("KILL", "TERM", "INT", "HUP", "QUIT", "USR1", "USR2"),
            ),
            CONTAINERS,
        ),
        kill,
    ),
    Verb(
        "rm",
        "Remove containers",
        (Argument(("-f", "--force"), "end those that run", "flag"), CONTAINERS),
        rm,
    ),
    Verb("wait", "Wait for containers to end and show their exit statuses", (CONTAINERS,), wait),
)
