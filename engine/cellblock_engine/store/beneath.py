"""Directories of trees that others made, and may be changing: opened beneath the tree's root.

No symbolic link is followed on the way, so nothing outside of the tree is ever reached.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..linux import syscalls as sys

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_BLOCK_BYTES = 512  # stat(2), whatever the file system's own


def open_directory(root: int, path: bytes) -> int:
    """Return a descriptor of the directory ``path`` of the tree ``root``. Raises OSError."""
    return sys.openat2(root, path or b".", _DIRECTORY, resolve=_BENEATH)


@contextmanager
def directory(root: int, path: bytes) -> Iterator[int | None]:
    """Give a descriptor of that directory while the block runs; None if it is not there."""
    try:
        fd = open_directory(root, path)
    except OSError as error:
        if error.errno not in GONE:
            raise
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def disk_bytes(path: Path) -> int:
    """Return what the file or tree takes on disk; what cannot be looked at counts nothing."""
    try:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return status.st_blocks * _BLOCK_BYTES
        root = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        return sum(_blocks(root)) * _BLOCK_BYTES
    finally:
        os.close(root)


def _blocks(root: int) -> Iterator[int]:
    yield os.fstat(root).st_blocks
    linked: set[tuple[int, int]] = set()
    todo = [b""]
    while todo:  # not recursive: a tree may nest as deep as it likes
        path = todo.pop()
        above = path + b"/" if path else b""
        try:
            fd = open_directory(root, path)
        except OSError:
            continue
        try:
            for name in map(os.fsencode, os.listdir(fd)):  # noqa: PTH208 - no path
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    todo.append(above + name)
                elif status.st_nlink > 1:
                    if (inode := (status.st_dev, status.st_ino)) in linked:
                        continue
                    linked.add(inode)
                yield status.st_blocks
        finally:
            os.close(fd)
