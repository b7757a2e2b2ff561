"""Output on its way from a command to the log and, while somebody listens, to a client."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from .logs import LogWriter
from .loop import WRITE, Loop

_CHUNK = 1 << 16
_MOST_QUEUED = 1 << 20


OUTWARD, INWARD = 0o222, 0o444
"""Modes of a container's pipes: what it writes to it may not open for reading, nor the reverse."""


def pipe_for_container(mode: int) -> tuple[int, int]:
    """Return ``(read end, write end)`` of a pipe that any user inside may open by /dev/stdout.

    A pipe has no name outside /proc/PID/fd, so its mode lets nobody in who is not inside.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.fchmod(read_end, mode)
    return read_end, write_end


class Relay:
    """One output stream: a pipe from the container, into the log and to a client's pipe.

    A slow client holds the command back; where it closed its end, the command finds its own closed.
    """

    def __init__(
        self, loop: Loop, log: LogWriter, stream: str, source: int, sink: int | None
    ) -> None:
        self._loop, self._log, self._stream = loop, log, stream
        self._source, self._sink = source, sink
        self._queue = bytearray()
        self._ended = False
        self.on_end: Callable[[], None] = lambda: None
        os.set_blocking(source, False)
        if sink is not None:
            os.set_blocking(sink, False)
        loop.watch(source, self._read)

    @property
    def done(self) -> bool:
        """Everything was read, and delivered where there is somebody to deliver to."""
        return self._ended and not self._queue

    def abandon_client(self) -> None:
        """Deliver nothing more."""
        if self._sink is not None:
            self._loop.unwatch(self._sink)
            os.close(self._sink)
            self._sink = None
        self._queue.clear()
        self._pace()

    def close(self) -> None:
        """Give back both ends."""
        self.abandon_client()
        if not self._ended:
            self._loop.unwatch(self._source)
            os.close(self._source)
            self._ended = True

    def _read(self) -> None:
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._ended = True
            self._loop.unwatch(self._source)
            os.close(self._source)
            self._settle()
            return
        self._log.write(self._stream, data)
        if self._sink is not None:
            self._queue += data
            self._write()

    def _write(self) -> None:
        assert self._sink is not None
        try:
            while self._queue:
                sent = os.write(self._sink, self._queue[:_CHUNK])
                del self._queue[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            self.close()  # the command's next write then fails as it would in a pipeline
            self._settle()
            return
        self._pace()
        self._settle()

    def _pace(self) -> None:
        if self._sink is not None:
            if self._queue:
                self._loop.watch(self._sink, self._write, WRITE)
            else:
                self._loop.unwatch(self._sink)
        if self._ended:
            return
        if len(self._queue) < _MOST_QUEUED:
            self._loop.watch(self._source, self._read)
        else:
            self._loop.unwatch(self._source)

    def _settle(self) -> None:
        if self.done:
            self.on_end()
