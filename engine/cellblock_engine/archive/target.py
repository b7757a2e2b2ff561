"""Where an archive goes: a stream, or a file that is there whole or not at all.

A file has no name while it is written (O_TMPFILE, open(2)), so a killed process leaves nothing. To
replace one it gets a name beside it for a moment, always the same, which the next save takes over.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import Conflict, InvalidInput, StoreError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAMELESS = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
# What open(2) answers where the file system, or the kernel, has no files without a name.
_UNKNOWN = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_MOST_TRIES = 100
_LONGEST_REST_S = 0.02


def write(archive: Iterable[bytes], target: Path | BinaryIO) -> None:
    """Write the archive; a file takes its place when it is whole, for its owner only.

    Raises what ``archive`` raises, InvalidInput for a file that cannot be made, StoreError for
    one that cannot be written, Conflict where others keep writing it, OSError for a stream.
    """
    if not isinstance(target, Path):
        _pour(archive, target)
        target.flush()
        return
    path = Path(os.path.realpath(target))
    if not _is_replaceable(path):  # a pipe, a device
        with path.open("wb") as file:
            _pour(archive, file)
        return
    try:
        directory = os.open(path.parent, _DIRECTORY)
    except OSError as error:
        raise InvalidInput(f"cannot write {target}: {error.strerror}") from error
    try:
        _write_whole(archive, path, directory)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from error
    finally:
        os.close(directory)


def _write_whole(archive: Iterable[bytes], path: Path, directory: int) -> None:
    try:
        fd = os.open(".", _NAMELESS, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno in _UNKNOWN:
            _write_beside(archive, path)
            return
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
    with open(fd, "wb") as file:
        _pour(archive, file)
        file.flush()
        os.fsync(fd)
        _name(fd, os.fsencode(path.name), directory)


def _name(fd: int, name: bytes, directory: int) -> None:
    """Give the file its name. Another save may do the same: each leaves a whole file there."""
    with suppress(FileExistsError):
        _link(fd, name, directory)
        return
    beside = b"." + name[:200] + b".cellblock"
    for _ in range(_MOST_TRIES):
        with suppress(FileExistsError, FileNotFoundError):
            _link(fd, beside, directory)
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
            return
        with suppress(FileNotFoundError):  # a killed one's, or it is being named just now
            os.unlink(beside, dir_fd=directory)
        time.sleep(random.uniform(0, _LONGEST_REST_S))  # noqa: S311 - only to be out of step
    raise Conflict(f"{os.fsdecode(name)!r} is being written by others: try again")


def _link(fd: int, name: bytes, directory: int) -> None:
    own = os.open("/proc/self/fd", _DIRECTORY)  # with a descriptor, Python asks linkat to follow
    try:
        os.link(str(fd), name, src_dir_fd=own, dst_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(own)


def _write_beside(archive: Iterable[bytes], path: Path) -> None:
    """Write a file that has a name from the start, for want of one that has none."""
    with _beside(path) as (fd, beside), open(fd, "wb") as file:
        _pour(archive, file)
        file.flush()
        os.fsync(fd)
        beside.rename(path)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[int, Path]]:
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name[:200]}.", dir=path.parent)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
    try:
        yield fd, Path(name)
    except BaseException:
        Path(name).unlink()
        raise


def _pour(archive: Iterable[bytes], file: BinaryIO) -> None:
    for piece in archive:
        file.write(piece)


def _is_replaceable(path: Path) -> bool:
    """Tell whether a new file may take this place. Raises InvalidInput for a directory."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise InvalidInput(f"cannot write {path}: it is a directory; name a file in it")
    return stat.S_ISREG(mode)
