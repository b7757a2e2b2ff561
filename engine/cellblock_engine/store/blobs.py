"""Blobs as registries have them: ``sha256/<hex>``, complete and verified, or absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DigestMismatch, StoreError, StoreFull
from ..layout import Layout
from ..linux import idmaps
from ..oci.digest import Digest
from ..private import make_private
from ..units import format_bytes
from .partials import Partials
from .room import raise_if_full
from .staging import Staging, sync_directory

_ROOM_FOR = "an image in the store"
_PIECE_BYTES = 64 * 2**10
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class BlobWriter:
    """A blob on its way in; see :meth:`Blobs.writer`."""

    def __init__(
        self, fd: int, path: Path, target: Path, digest: Digest, size: int, *, partials: Partials
    ) -> None:
        self._fd, self._path, self._target = fd, path, target
        self._partials = partials
        self._digest, self._size = digest, size
        self._hash = hashlib.sha256()
        self.written_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``. Raises DigestMismatch beyond the promised size, StoreFull."""
        self.written_bytes += len(chunk)
        if self.written_bytes > self._size:
            raise DigestMismatch(
                f"blob {self._digest.short} is longer than the {self._size} bytes promised"
            )
        self._hash.update(chunk)
        _write(self._fd, chunk)

    def resume(self) -> int:
        """Begin with what an earlier download left; return its length in bytes, 0 for none.

        Raises StoreFull, and DigestMismatch where that is longer than the blob.
        """
        for chunk in self._partials.take(self._digest):
            self.write(chunk)
        return self.written_bytes

    def keep(self) -> None:
        """Leave what was written for a later download to begin with; ends the writing."""
        self._partials.keep(self._digest, self._path, self.written_bytes)

    def commit(self) -> None:
        """Make the blob visible, durably. Raises DigestMismatch, StoreFull."""
        if self.written_bytes != self._size:
            raise DigestMismatch(
                f"blob {self._digest.short} has {self.written_bytes} bytes "
                f"where {self._size} were promised: try again"
            )
        if self._hash.hexdigest() != self._digest.hex:
            raise DigestMismatch(
                f"blob {self._digest.short} arrived with the digest "
                f"sha256:{self._hash.hexdigest()[:12]}...: damaged or replaced on the way"
            )
        _publish(self._fd, self._path, self._target)


class Blobs:
    """The blobs of a store. Thread-safe; several processes may work on one store."""

    def __init__(self, layout: Layout, staging: Staging) -> None:
        self._layout = layout
        self._staging = staging
        self.partials = Partials(layout)

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there, complete."""
        return self.path(digest).is_file()

    def path(self, digest: Digest) -> Path:
        """Return where the blob is or would be."""
        return self._layout.blobs / digest.hex

    def read(self, digest: Digest, cap_bytes: int) -> bytes:
        """Return the content, verified. Raises StoreError, DigestMismatch."""
        with open(self._open(digest), "rb") as file:
            data = file.read(cap_bytes + 1)
        if len(data) > cap_bytes:
            raise StoreError(f"blob {digest.short} has more than the {cap_bytes} bytes allowed")
        if Digest.of(data) != digest:
            raise DigestMismatch(f"blob {digest.short} is damaged on disk: remove and pull again")
        return data

    def check_room(self, size_bytes: int) -> None:
        """Raise StoreFull if the store's file system has less room than that."""
        status = os.statvfs(self._layout.home)
        is_root = os.geteuid() == 0 and idmaps.may_map_ranges()  # not of an ordinary user's ids
        blocks = status.f_bfree if is_root else status.f_bavail
        free_bytes = blocks * status.f_frsize
        if status.f_blocks and size_bytes > free_bytes:  # without blocks, it does not tell
            raise StoreFull(
                f"no space for {format_bytes(size_bytes)} of layers in {self._layout.home}, which "
                f"has {format_bytes(free_bytes)} free: remove images with rmi, or make room"
            )

    @contextmanager
    def writer(self, digest: Digest, size: int) -> Iterator[BlobWriter]:
        """Give a writer for the blob of this digest and size in bytes; kept only if committed.

        When two write the same blob, either may win: their content is equal. Raises StoreFull.
        """
        try:
            with self._staging.file() as (fd, path):
                yield BlobWriter(fd, path, self.path(digest), digest, size, partials=self.partials)
        except OSError as error:
            raise_if_full(error, _ROOM_FOR)
            raise

    def keep(self, digest: Digest, data: bytes) -> None:
        """Put a small blob there, unless it is. Raises DigestMismatch, StoreFull."""
        if not self.has(digest):
            with self.writer(digest, len(data)) as writer:
                writer.write(data)
                writer.commit()

    def add(self, content: Iterable[bytes]) -> tuple[Digest, int]:
        """Put the blob there that ``content`` is; return its digest, and its size in bytes.

        Raises what ``content`` raises, and StoreFull; then nothing stays.
        """
        hashed, size_bytes = hashlib.sha256(), 0
        with self._staging.file() as (fd, path):
            for piece in content:
                hashed.update(piece)
                size_bytes += len(piece)
                _write(fd, piece)
            digest = Digest("sha256", hashed.hexdigest())
            _publish(fd, path, self.path(digest))
        return digest, size_bytes

    def pieces(self, digest: Digest, start: int = 0) -> Iterator[bytes]:
        """Yield the content from byte ``start`` on, in small pieces, unverified.

        Raises StoreError for a blob that is not there.
        """
        with open(self._open(digest), "rb") as file:
            file.seek(start)
            while piece := file.read(_PIECE_BYTES):
                yield piece

    def size_bytes(self, digest: Digest) -> int:
        """Return the blob's size, 0 where it is not there."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def discard(self, digest: Digest) -> None:
        """Remove the blob, if it is there; for the garbage collector alone."""
        self.path(digest).unlink(missing_ok=True)

    def _open(self, digest: Digest) -> int:
        try:
            return os.open(self.path(digest), _READ)
        except FileNotFoundError:
            raise StoreError(f"blob {digest.short} is not in the store: pull its image") from None


def _write(fd: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError as error:
        raise_if_full(error, _ROOM_FOR)
        raise


def _publish(fd: int, path: Path, target: Path) -> None:
    """Make a complete file visible at its place, durably."""
    try:
        os.fsync(fd)
        make_private(target.parent.parent, target.parent)
        path.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise_if_full(error, _ROOM_FOR)
        raise
