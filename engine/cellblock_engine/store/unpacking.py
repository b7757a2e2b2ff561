"""The parent's end of the unpacker: starts it, asks it, ends it, and believes nothing it says.

See :mod:`.unpacker` for what it is and how it is spoken to.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidLayer, StoreError, StoreFull
from ..linux.idmaps import IdMaps
from .children import start_child

_ERRORS = {kind.__name__: kind for kind in (InvalidLayer, StoreError, StoreFull)}
_STALL_S = 600.0  # without a sign of life; a slow disk may take long to sync
_MAX_LINE_BYTES = 2**16
_END_S = 5.0
_GATHERED_BYTES = 2**16
_PROGRAM = Path(__file__).with_name("unpacker.py")


@dataclass(frozen=True)
class Caps:
    """How much one layer may hold.

    ``max_bytes`` caps the uncompressed archive; for a small blob the cap is ``floor_bytes`` or
    ``ratio`` times the blob, whichever is more, so that a compression bomb ends early.
    """

    max_bytes: int = 256 * 2**30
    floor_bytes: int = 4 * 2**30
    ratio: int = 200
    max_entries: int = 4_000_000

    def bytes_for(self, blob_bytes: int) -> int:
        """Return the cap for a blob of this size, in bytes."""
        return min(self.max_bytes, max(self.floor_bytes, self.ratio * blob_bytes))


class Unpacker:
    """One child process; used by one thread at a time. Close it, or it lives as long as we do.

    ``source`` is a descriptor that it inherits. With ``maps`` it becomes root of these ids.
    """

    def __init__(self, maps: IdMaps | None, source: int | None = None) -> None:
        fds = () if source is None else (source,)
        self._process = start_child(_PROGRAM, json.dumps(maps), fds=fds, bufsize=0)
        self._pending = b""

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def unpack(
        self, blob: Path, staging: Path, caps: Caps, progress: Callable[[int], None] | None
    ) -> str:
        """Unpack ``blob`` into ``staging/fs`` and describe it in ``staging/layer.json``.

        Returns the hexadecimal SHA-256 of the uncompressed archive. ``progress`` is told the
        bytes of the blob read so far. Raises InvalidLayer, StoreFull or StoreError; whatever it
        raises, the unpacker is then to be closed.
        """
        self.ask(str(blob), staging, caps.bytes_for(blob.stat().st_size), caps.max_entries)
        return self.answer(progress)

    def ask(self, blob: str | int, staging: Path, max_bytes: int, max_entries: int) -> None:
        """Send a request; :meth:`answer` has what becomes of it. Raises StoreError."""
        request = {
            "blob": blob,
            "staging": str(staging),
            "max_bytes": max_bytes,
            "max_entries": max_entries,
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise self._death() from None

    def answer(self, progress: Callable[[int], None] | None = None) -> str:
        """Return what :meth:`unpack` does, for the request that was sent. Raises as it does."""
        while True:
            answer = self._answer()
            if "read" in answer:
                if progress is not None:
                    progress(int(str(answer["read"])))
            elif "diffid" in answer:
                return str(answer["diffid"])
            else:
                raise _ERRORS.get(str(answer.get("error")), StoreError)(str(answer.get("message")))

    def close(self) -> None:
        """End the child at once and wait for it."""
        self._process.kill()
        self._process.wait(_END_S)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def _answer(self) -> dict[str, object]:
        """Wait for one line. Raises StoreError when the child dies or falls silent."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + _STALL_S
        while b"\n" not in self._pending:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _silence()
            data = os.read(fd, 2**16)
            if not data or len(self._pending) > _MAX_LINE_BYTES:
                raise self._death()
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {}

    def _death(self) -> StoreError:
        self._process.kill()
        status = self._process.wait(_END_S)
        assert self._process.stderr is not None
        last = self._process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return StoreError(f"the unpacker of a layer {how}: {last or 'try again'}")


def unpack_while_made(
    archive: Iterable[bytes], staging: Path, caps: Caps, maps: IdMaps | None = None
) -> tuple[str, int]:
    """Unpack an archive that is there only while it is made, as :meth:`Unpacker.unpack` does.

    Returns its hexadecimal SHA-256, and its size in bytes. Raises as that does, and what
    ``archive`` raises.
    """
    source, sink = os.pipe()
    try:
        unpacker = Unpacker(maps, source)
    except BaseException:
        os.close(sink)
        raise
    finally:
        os.close(source)
    try:
        try:
            unpacker.ask(source, staging, caps.max_bytes, caps.max_entries)
            size_bytes = _pour(archive, sink)
        finally:
            os.close(sink)
        return unpacker.answer(), size_bytes
    finally:
        unpacker.close()


def _pour(archive: Iterable[bytes], sink: int) -> int:
    """Write the archive to the pipe, and return its size in bytes.

    An unpacker that reads no more has an error to tell, which is not told here.
    """
    os.set_blocking(sink, False)
    poll = select.poll()
    poll.register(sink, select.POLLOUT)
    size_bytes = 0
    for chunk in _gathered(archive):
        rest = memoryview(chunk)
        while rest:
            if not poll.poll(_STALL_S * 1000):
                raise _silence()
            try:
                rest = rest[os.write(sink, rest) :]
            except BrokenPipeError:
                return size_bytes
        size_bytes += len(chunk)
    return size_bytes


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in fewer pieces."""
    waiting: list[bytes] = []
    waiting_bytes = 0
    for piece in pieces:
        waiting.append(piece)
        waiting_bytes += len(piece)
        if waiting_bytes >= _GATHERED_BYTES:
            yield b"".join(waiting)
            waiting, waiting_bytes = [], 0
    yield b"".join(waiting)


def _silence() -> StoreError:
    return StoreError(f"the unpacker of a layer fell silent for {_STALL_S:g} s")


class Unpackers:
    """Unpackers ready for use; while somebody keeps them warm, each serves many layers."""

    def __init__(self, maps: Callable[[], IdMaps | None]) -> None:
        self._maps = maps
        self._lock = threading.Lock()
        self._idle: list[Unpacker] = []
        self._keepers = 0

    @contextmanager
    def warm(self) -> Iterator[None]:
        """Start one ahead of need and keep those that become free, until the end of the block."""
        first = Unpacker(self._maps())
        with self._lock:
            self._keepers += 1
            self._idle.append(first)
        try:
            yield
        finally:
            with self._lock:
                self._keepers -= 1
                surplus, self._idle = (self._idle, []) if not self._keepers else ([], self._idle)
            for unpacker in surplus:
                unpacker.close()

    @contextmanager
    def one(self) -> Iterator[Unpacker]:
        """Give an unpacker; it is ended where its use raises, or nobody keeps it warm."""
        with self._lock:
            unpacker = self._idle.pop() if self._idle else None
        unpacker = unpacker or Unpacker(self._maps())
        kept = False
        try:
            yield unpacker
            with self._lock:
                if self._keepers:
                    self._idle.append(unpacker)
                    kept = True
        finally:
            if not kept:
                unpacker.close()
