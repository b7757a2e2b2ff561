"""What verbs return, in a notebook: values to use, text on the cell's streams, typed exceptions."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cellblock_engine import CellblockError

from .documents import document, rfc3339
from .streams import pump, to_text
from .tables import facts, plain
from .verbs.outcome import (
    Acknowledged,
    Chart,
    Facts,
    Foreground,
    Identifiers,
    Inspection,
    Listing,
    Outcome,
    Records,
    Started,
)

if TYPE_CHECKING:
    from cellblock_engine import Attached, Exit

_INTERRUPT_GRACE_S = 3.0


def render(outcome: Outcome) -> object:  # noqa: PLR0911 - one for each kind
    """Show what a verb returned; return what is of use in the cell (None if nothing is).

    A foreground process that did not end with status 0 raises its verdict, or
    :class:`subprocess.CalledProcessError` as ``%%bash`` does.
    """
    match outcome:
        case Listing(table, "json"):
            return document(table.rows)
        case Listing(table, _):
            from .frames import frame  # noqa: PLC0415 - pandas

            return frame(table)
        case Inspection(documents):
            from .frames import inspection  # noqa: PLC0415 - pandas

            return inspection(documents)
        case Chart():
            from .charts import figure  # noqa: PLC0415 - matplotlib

            return figure(outcome)
        case Identifiers(values):
            return list(values)
        case Started(container_id, notes):
            note(notes)
            return container_id
        case Facts(known, "json"):
            return known
        case Facts(known, _):
            print(facts(known))
        case Acknowledged():
            _acknowledge(outcome)
        case Records():
            _write_records(outcome)
        case Foreground():
            _check(_follow(outcome), outcome)
    return None


def note(notes: tuple[str, ...]) -> None:
    """Say what is worth knowing on the cell's stderr."""
    for each in notes:
        print(f"cellblock: {plain(each)}", file=sys.stderr)


def _acknowledge(outcome: Acknowledged) -> None:
    for line in (*outcome.lines, *outcome.notes):
        print(plain(line))
    for error in outcome.errors[:-1]:
        print(f"{type(error).__name__}: {plain(str(error))}", file=sys.stderr)
    if outcome.errors:
        raise outcome.errors[-1]


def _write_records(outcome: Records) -> None:
    sinks = {"stdout": to_text(sys.stdout), "stderr": to_text(sys.stderr)}
    for record in outcome.records:
        mark = f"{rfc3339(record.time)} " if outcome.timestamps == "shown" else ""
        for line in record.data.splitlines(keepends=True):
            sinks[record.stream](mark.encode() + line)


def _follow(outcome: Foreground) -> Exit:
    """Show what a process writes until it ends, in the caller's thread; return how it ended.

    An interrupt of the kernel becomes a SIGINT for the process, which is killed if it has not
    ended soon after, or at a second interrupt; KeyboardInterrupt is raised in any case.
    """
    note(outcome.notes)
    stdout, stderr = to_text(sys.stdout), to_text(sys.stderr)
    with outcome.start() as attached:
        attached.close_stdin()  # a notebook has none to give
        try:
            pump(attached, stdout, stderr)
            return attached.wait()
        except KeyboardInterrupt:
            with suppress(CellblockError, OSError):  # it has ended meanwhile
                attached.interrupt()
            with _killed_after(attached, _INTERRUPT_GRACE_S):
                pump(attached, stdout, stderr)
                attached.wait()
            raise


@contextmanager
def _killed_after(attached: Attached, grace_s: float) -> Iterator[None]:
    timer = threading.Timer(grace_s, attached.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check(end: Exit, outcome: Foreground) -> None:
    if end.verdict is not None:
        raise end.verdict
    if end.exit_code:
        raise subprocess.CalledProcessError(end.exit_code, shlex.join(outcome.words))
