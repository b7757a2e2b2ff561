"""The beginnings of blobs whose downloads were cut off, for the next pull to go on from.

A beginning is only a hint: it is read once, hashed again like anything from the network, and
gone. Small ones are not worth keeping; old ones go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..layout import Layout
from ..oci.digest import Digest
from ..private import make_private

SMALLEST_BYTES = 2**20
_LONGEST_S = 7 * 24 * 3600.0
_CHUNK = 2**20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Partials:
    """The beginnings in one store. Thread-safe; several processes may work on one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def has(self, digest: Digest) -> bool:
        """Tell whether there is a beginning of this blob."""
        return (self._layout.partials / digest.hex).is_file()

    def keep(self, digest: Digest, path: Path, size_bytes: int) -> None:
        """Take over the file ``path`` as the beginning of a blob, if it is worth it."""
        if size_bytes >= SMALLEST_BYTES:
            make_private(self._layout.home, self._layout.partials)
            path.rename(self._layout.partials / digest.hex)

    def take(self, digest: Digest) -> Iterator[bytes]:
        """Yield the beginning of a blob in chunks, nothing where there is none; then it is gone."""
        path = self._layout.partials / digest.hex
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError:
            return
        path.unlink(missing_ok=True)
        with open(fd, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def sweep(self, longest_s: float = _LONGEST_S) -> int:
        """Remove those that are older, in seconds; return the bytes freed."""
        freed_bytes, now = 0, time.time()
        directory = self._layout.partials
        for path in directory.iterdir() if directory.is_dir() else ():
            try:
                status = path.stat()
                if abs(now - status.st_mtime) >= longest_s:
                    path.unlink()
                    freed_bytes += status.st_size
            except FileNotFoundError:
                continue  # a pull has taken it
        return freed_bytes
