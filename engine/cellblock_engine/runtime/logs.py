"""A container's log: what its first command wrote, with times, in the CRI log format.

Each line is ``<RFC 3339 time> stdout|stderr F|P <bytes>``: F ends a line of the command's
output, P is a part of one. (Kubernetes design proposal "kubelet CRI logging".) The log is bounded:
one file of LARGEST_FILE bytes and the one before it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

LARGEST_FILE = 16 << 20
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

    def write(self, stream: str, data: bytes) -> None:
        """Append output as it came. What the disk has no room for is not kept."""
        stamp = _format_time(time.time_ns())
        prefix = f"{stamp} {stream} ".encode()
        parts = data.split(b"\n")
        lines = [prefix + b"F " + part + b"\n" for part in parts[:-1]]
        if parts[-1]:
            lines.append(prefix + b"P " + parts[-1] + b"\n")
        block = b"".join(lines)
        try:
            self._open().write(block)
        except OSError:
            self.close()  # a full disk must not end the container
            return
        self._size += len(block)
        if self._size >= LARGEST_FILE:
            self.close()
            os.replace(self._path, f"{self._path}.1")

    def close(self) -> None:
        """Close the file."""
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


def _format_time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def _parse_time(stamp: str) -> int:
    import calendar  # noqa: PLC0415 - readers only; the monitor writes

    whole, _, rest = stamp.removesuffix("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 10**9 + int(rest)
