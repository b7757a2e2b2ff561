"""Where an archive goes: a stream, or a file that is there whole or not at all.

A file has no name while it is written (O_TMPFILE, open(2)), so a killed process leaves nothing. To
replace one it gets a name beside it for a moment, always the same, which the next save takes over.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import InvalidInput, StoreError
from ..store.locks import Kind, lock

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAMELESS = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
# What open(2) answers where the file system, or the kernel, has no files without a name.
_UNKNOWN = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_TURN_S = 10.0


def write(archive: Iterable[bytes], target: Path | BinaryIO) -> None:
    """Write the archive; a file takes its place when it is whole, for its owner only.

    Raises what ``archive`` raises, InvalidInput for a file that cannot be made, StoreError for
    one that cannot be written, Conflict where others are writing it, OSError for a stream.
    """
    if not isinstance(target, Path):
        _pour(archive, target)
        target.flush()
        return
    path = _real(target)
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
    # One at a time: the name beside it is the same for all, and a file without a name that has
    # lost its first cannot be given another (linkat(2)).
    lock(directory, Kind.EXCLUSIVE, timeout_s=_TURN_S, what=f"{os.fsdecode(name)!r}")
    beside = b"." + name[:200] + b".cellblock"
    with suppress(FileNotFoundError):  # a killed one's
        os.unlink(beside, dir_fd=directory)
    _link(fd, beside, directory)
    os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)


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


def _real(target: Path) -> Path:
    """Return the path without links. Raises InvalidInput for one that somebody else has laid.

    As the kernel does it for links in /tmp and its like (fs.protected_symlinks, proc(5)), which
    does not get to see them here.
    """
    path = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow links
    for each in (path, *path.parents):
        try:
            link, directory = each.lstat(), each.parent.stat()
        except OSError:
            continue  # it is not there, and what is to be written says so
        shared = directory.st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH
        owners = (os.geteuid(), directory.st_uid)
        if stat.S_ISLNK(link.st_mode) and shared and link.st_uid not in owners:
            raise InvalidInput(
                f"cannot write {target}: {each} is a link that another user has made"
            )
    return Path(os.path.realpath(path))


def _is_replaceable(path: Path) -> bool:
    """Tell whether a new file may take this place. Raises InvalidInput for a directory."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise InvalidInput(f"cannot write {path}: it is a directory; name a file in it")
    return stat.S_ISREG(mode)
