"""What verbs return, on a terminal or in a pipe: text on stdout, an exit status for the shell.

Containers' bytes go to the descriptors as they are. Everything else that is said goes to stderr.
"""

from __future__ import annotations

import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from cellblock_engine import CellblockError, InvalidInput, Killed, TimedOut

from .documents import json_text, rfc3339
from .streams import feed, pump, to_descriptor, write_all
from .tables import View, facts, plain, text, utc_now
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
    from cellblock_engine import Attached, LogRecord

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def render(outcome: Outcome) -> int:
    """Show what a verb returned; return the exit status of the command."""
    match outcome:
        case Listing(table, "json"):
            _say(json_text(table.rows))
            return outcome.exit_status
        case Listing(table, style):
            _say(text(table, View(utc_now(), wide=style == "wide")))
            return outcome.exit_status
        case Identifiers(values):
            _say(*values)
        case Started(container_id, notes):
            _note(notes)
            _say(container_id)
        case Acknowledged():
            return _acknowledge(outcome)
        case Facts(document, "json"):
            _say(json_text(document))
        case Facts(document, _):
            _say(facts(document))
        case Inspection(documents):
            _say(json_text(list(documents.values())))
        case Chart():
            raise InvalidInput("--plot draws in a notebook: leave it out here, or give --json")
        case Records(records, timestamps):
            for record in records:
                _write(record, timestamps == "shown")
        case Foreground():
            return _follow(outcome)
    return 0


def complain(error: Exception) -> int:
    """Say what went wrong on one line of stderr; return the exit status that goes with it."""
    words = str(error)
    if isinstance(error, OSError) and error.strerror:
        words = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    print(f"cellblock: {plain(words)}", file=sys.stderr, flush=True)
    return error.exit_status if isinstance(error, CellblockError) else CellblockError.exit_status


def _acknowledge(outcome: Acknowledged) -> int:
    _say(*map(plain, outcome.lines))
    _note(outcome.notes)
    return max(map(complain, outcome.errors), default=0)


def _note(notes: tuple[str, ...]) -> None:
    for note in notes:
        print(f"cellblock: {plain(note)}", file=sys.stderr, flush=True)


def _say(*lines: str) -> None:
    for line in lines:
        print(line)


def _write(record: LogRecord, timestamps: bool) -> None:  # noqa: FBT001 - private
    mark = f"{rfc3339(record.time)} ".encode() if timestamps else b""
    target = _STDOUT if record.stream == "stdout" else _STDERR
    for line in record.data.splitlines(keepends=True):
        write_all(target, mark + line)


def _follow(outcome: Foreground) -> int:
    """Connect a process to our own streams until it ends; return its exit status."""
    _note(outcome.notes)
    with outcome.start() as attached, _forwarding(attached) as forwarded:
        if outcome.stdin == "caller":
            feed(attached, _STDIN)
        pump(attached, to_descriptor(_STDOUT), to_descriptor(_STDERR))
        end = attached.wait()
    ours = forwarded and isinstance(end.verdict, Killed)  # who sent the signal knows of it
    if end.verdict is not None and not ours:
        complain(end.verdict)
    return end.verdict.exit_status if isinstance(end.verdict, TimedOut) else end.exit_code


@contextmanager
def _forwarding(attached: Attached) -> Iterator[list[int]]:
    """Pass the signals that people and supervisors send on; the list is of those that were.

    A second Ctrl-C kills it. A handler only notes the signal, in a queue that may be used from
    handlers; a thread passes it on, because a handler must not wait for what it interrupted.
    """
    noted: queue.SimpleQueue[int] = queue.SimpleQueue()
    forwarded: list[int] = []

    def note(signum: int, _: FrameType | None) -> None:
        noted.put(signum)

    def forward() -> None:
        while signum := noted.get():
            forwarded.append(signum)
            with suppress(CellblockError, OSError):  # it has ended meanwhile
                if signum != signal.SIGINT:
                    attached.signal(signum)
                elif forwarded.count(signal.SIGINT) > 1:
                    attached.kill()
                else:
                    attached.interrupt()

    thread = threading.Thread(target=forward, name="cellblock-signals", daemon=True)
    thread.start()
    before = {signum: signal.signal(signum, note) for signum in _FORWARDED}
    try:
        yield forwarded
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        noted.put(0)
        thread.join(timeout=5)
