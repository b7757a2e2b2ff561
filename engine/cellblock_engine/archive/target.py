"""Where an archive goes: a stream, or a file that is there whole or not at all.

A file has no name while it is written (O_TMPFILE, open(2)), so a killed process leaves nothing. To
replace one it gets a name beside it for a moment. Who was killed then has let go of its lock, and
the next save of that file takes away what it left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import InvalidInput, StoreError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAMELESS = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
_NAMED = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What open(2) answers where the file system, or the kernel, has no files without a name.
_UNKNOWN = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_SUFFIX = b".cellblock"
_MOST_TRIES = 10


def write(archive: Iterable[bytes], target: Path | BinaryIO) -> None:
    """Write the archive; a file takes its place when it is whole, for its owner only.

    Raises what ``archive`` raises, InvalidInput for a file that cannot be made, StoreError for
    one that cannot be written, OSError for a stream.
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
    name = os.fsencode(path.name)
    prefix = b"." + name[:200] + b"."
    _sweep(prefix, directory)
    try:
        fd, beside, nameless = _create(prefix, directory)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
    try:
        with open(fd, "wb") as file:
            _pour(archive, file)
            file.flush()
            os.fsync(fd)
            if nameless:
                with suppress(FileExistsError):
                    _link(fd, name, directory)
                    return
                _link(fd, beside, directory)
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=directory)
        raise


def _create(prefix: bytes, directory: int) -> tuple[int, bytes, bool]:
    """Return a new file that is locked, the name that it has or may get, and which it is."""
    for _ in range(_MOST_TRIES):
        beside = prefix + secrets.token_hex(8).encode() + _SUFFIX
        nameless = True
        try:
            fd = os.open(".", _NAMELESS, 0o600, dir_fd=directory)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
            fd, nameless = os.open(beside, _NAMED, 0o600, dir_fd=directory), False
        if _is_locked(fd) and (nameless or os.fstat(fd).st_nlink):
            return fd, beside, nameless
        os.close(fd)  # another save is sweeping it away
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _is_locked(fd: int) -> bool:
    """Lock the file, unless another has; where the file system has no locks, nobody has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _link(fd: int, name: bytes, directory: int) -> None:
    """Give a file its first name. It cannot have another once it has lost that (linkat(2))."""
    own = os.open("/proc/self/fd", _DIRECTORY)  # with a descriptor, Python asks linkat to follow
    try:
        os.link(str(fd), name, src_dir_fd=own, dst_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(own)


def _sweep(prefix: bytes, directory: int) -> None:
    """Remove what killed saves of this file have left: regular files that nobody has locked."""
    for name in map(os.fsencode, os.listdir(directory)):
        if not (name.startswith(prefix) and name.endswith(_SUFFIX)):
            continue
        with suppress(OSError):  # it is at work, has just been renamed, or is not ours to look at
            fd = os.open(name, _LOOK, dir_fd=directory)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(fd)


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
