"""A container's log: what its first command wrote, with times, in the CRI log format.

Each line is ``<RFC 3339 time> stdout|stderr F|P <bytes>``: F ends a line of the command's
output, P is a part of one. (Kubernetes design proposal "kubelet CRI logging".) The log is bounded:
one file of LARGEST_FILE bytes and the one before it. So is its making, as a line of one byte costs
forty in the log: BURST_BYTES at once, then BYTES_PER_S; a line says how much output was left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

LARGEST_FILE = 16 << 20

BURST_BYTES = 32 << 20
"""How much may be logged at once, as formatted: all that the two files can hold."""

BYTES_PER_S = 4 << 20
"""How much more may be logged with each second: some percent of a core, and a slow disk's pace."""

_NAME = "log"
_LONGEST_LINE = 1 << 20


class Entry(NamedTuple):
    """One piece of output; ``time_ns`` counts from the epoch."""

    time_ns: int
    stream: str
    data: bytes


class LogWriter:
    """Appends to the log of the container in ``directory``; the file is made when needed."""

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/{_NAME}"
        self._file: BinaryIO | None = None
        self._size = 0
        self._budget = float(BURST_BYTES)
        self._counted_at = time.monotonic()
        self._left_out_bytes = 0

    def write(self, stream: str, data: bytes) -> None:
        """Append output as it came. What the budget or the disk has no room for is not kept."""
        now = time.monotonic()
        earned = (now - self._counted_at) * BYTES_PER_S
        self._budget, self._counted_at = min(BURST_BYTES, self._budget + earned), now
        # Once something was left out, a second's worth goes together, with one line about it.
        if self._left_out_bytes and self._budget < BYTES_PER_S:
            self._left_out_bytes += len(data)
            return
        prefix = _prefix(stream)
        cost = len(data) + (data.count(b"\n") + 1) * (len(prefix) + len(b"F \n"))
        if cost > self._budget:
            self._left_out_bytes += len(data)
            return
        self._budget -= cost
        self._admit()
        parts = data.split(b"\n")
        lines = [prefix + b"F " + part + b"\n" for part in parts[:-1]]
        if parts[-1]:
            lines.append(prefix + b"P " + parts[-1] + b"\n")
        self._append(b"".join(lines))

    def close(self) -> None:
        """Close the file."""
        self._admit()
        self._close_file()

    def _admit(self) -> None:
        """Write down how much was left out, if anything was."""
        if self._left_out_bytes:
            text = f"[cellblock: {self._left_out_bytes} bytes of output were not logged]\n"
            self._left_out_bytes = 0
            self._append(_prefix("stderr") + b"F " + text.encode())

    def _append(self, block: bytes) -> None:
        try:
            self._open().write(block)
        except OSError:
            self._close_file()  # a full disk must not end the container
            return
        self._size += len(block)
        if self._size >= LARGEST_FILE:
            self._close_file()
            os.replace(self._path, f"{self._path}.1")

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - kept open
            self._size = self._file.tell()
        return self._file


def read(directory: str) -> Iterator[Entry]:
    """Yield what was logged, oldest first; a line cut short by a crash is left out."""
    for name in (f"{_NAME}.1", _NAME):
        try:
            file = open(f"{directory}/{name}", "rb")  # noqa: SIM115 - closed by the with below
        except FileNotFoundError:
            continue
        with file:
            while line := file.readline(_LONGEST_LINE + 128):
                fields = line.split(b" ", 3)
                if len(fields) == 4 and line.endswith(b"\n"):
                    stamp, stream, tag, data = fields
                    kept = data if tag == b"F" else data[:-1]
                    yield Entry(_parse_time(stamp.decode()), stream.decode(), kept)


def _prefix(stream: str) -> bytes:
    return f"{_format_time(time.time_ns())} {stream} ".encode()


def _format_time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def _parse_time(stamp: str) -> int:
    import calendar  # noqa: PLC0415 - readers only; the monitor writes

    whole, _, rest = stamp.removesuffix("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 10**9 + int(rest)
