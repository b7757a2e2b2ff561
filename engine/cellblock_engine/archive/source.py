"""Where an archive comes from: a file, a directory, or a stream, compressed or not.

What cannot be read at any place is unpacked into the store's staging directory first, within
bounds; it is gone at the end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import InvalidArchive, InvalidInput, InvalidLayer
from ..store.compression import chunks, compression_of
from ..store.room import raise_if_full
from ..store.staging import Staging
from ..store.unpacking import Caps
from .members import ArchiveMembers, DirectoryMembers, Members


@contextmanager
def opened(source: Path | BinaryIO, staging: Staging) -> Iterator[Members]:
    """Give the files of an archive. Raises InvalidInput, InvalidArchive, StoreFull, OSError."""
    with opened_file(source) as fd, _readable(fd, staging) as members:
        yield members


@contextmanager
def opened_file(source: Path | BinaryIO) -> Iterator[int]:
    """Give a descriptor of an archive; a stream's is not closed. Raises InvalidInput."""
    if not isinstance(source, Path):
        yield source.fileno()
        return
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"cannot read the archive {source}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _readable(fd: int, staging: Staging) -> Iterator[Members]:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        yield DirectoryMembers(fd)
    elif (
        stat.S_ISREG(mode)
        and not os.lseek(fd, 0, os.SEEK_CUR)
        and not compression_of(os.pread(fd, 4, 0))
    ):
        yield ArchiveMembers(fd)
    else:
        with staging.file() as (spool, _):
            _unpack(fd, spool)
            yield ArchiveMembers(spool)


def unpacked(fd: int) -> Iterator[bytes]:
    """Yield what ``fd`` holds, uncompressed; a bomb ends early, as a layer's does.

    Raises InvalidArchive, StoreError.
    """
    caps, taken_bytes, given_bytes = Caps(), 0, 0

    def note(read_bytes: int) -> None:
        nonlocal taken_bytes
        taken_bytes = read_bytes

    try:
        for chunk in chunks(fd, max_bytes=caps.max_bytes, read=note):
            given_bytes += len(chunk)
            if given_bytes > caps.bytes_for(taken_bytes):
                raise InvalidArchive(
                    f"the archive is refused: {taken_bytes} bytes of it unpack to more than "
                    f"{caps.bytes_for(taken_bytes)}"
                )
            yield chunk
    except InvalidLayer as error:
        raise InvalidArchive(f"the archive cannot be unpacked: {error}") from error


def _unpack(fd: int, spool: int) -> None:
    """Write what ``fd`` holds, uncompressed."""
    try:
        for chunk in unpacked(fd):
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(spool, rest) :]
    except OSError as error:
        raise_if_full(error, "the archive while it is loaded")
        raise
