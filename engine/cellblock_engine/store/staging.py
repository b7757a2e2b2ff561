"""Unfinished work: entries that are locked by their makers and swept when they are not.

An entry becomes visible in the store by one rename, complete, or never. It is locked with a
*shared* flock so that a child process that works in it can hold it too; a sweep wants it
exclusively, and so removes only what nobody works on any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from ..private import make_private
from .locks import Kind, try_lock
from .trees import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 100


_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602  # linux/fs.h, 64-bit
_FS_TOPDIR_FL = 0x00020000


class Staging:
    """The staging directory of a store; ``remove`` is what takes an entry away, with all in it."""

    def __init__(self, path: Path, remove: Callable[[Path], None] = remove_tree) -> None:
        self._path = path
        self._remove = remove

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """Give a locked, empty directory; what is left under its name at the end is removed.

        Renaming it to its place in the store is what keeps it.
        """
        for _ in range(_ATTEMPTS):
            path = self._new_name()
            path.mkdir(mode=0o700)
            try:
                fd = os.open(path, _DIRECTORY)
            except FileNotFoundError:
                continue  # a sweep was faster than this
            if _holds(fd, path):
                break
            os.close(fd)
        else:
            raise _lost(self._path)
        try:
            yield path
        finally:
            self._remove(path)
            os.close(fd)

    @contextlib.contextmanager
    def file(self) -> Iterator[tuple[int, Path]]:
        """Give a locked, empty file open for writing, and its path, as :meth:`directory` does."""
        for _ in range(_ATTEMPTS):
            path = self._new_name()
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if _holds(fd, path):
                break
            os.close(fd)
        else:
            raise _lost(self._path)
        try:
            yield fd, path
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)

    def publish_json(self, target: Path, document: object) -> None:
        """Write ``document`` to ``target``: readers, also after a power loss, see old or new."""
        with self.file() as (fd, path):
            os.write(fd, json.dumps(document, indent=1).encode() + b"\n")
            os.fsync(fd)
            path.rename(target)
        sync_directory(target.parent)

    def sweep(self) -> tuple[str, ...]:
        """Remove the entries that nobody holds, the remains of processes that were ended.

        Returns their names.
        """
        swept: list[str] = []
        try:
            paths = list(self._path.iterdir())
        except FileNotFoundError:
            return ()
        for path in paths:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if try_lock(fd, Kind.EXCLUSIVE):
                    self._remove(path)
                    swept.append(path.name)
            finally:
                os.close(fd)
        return tuple(swept)

    def _new_name(self) -> Path:
        if not self._path.is_dir():
            make_private(self._path.parent, self._path)
            _spread(self._path)
        return self._path / secrets.token_hex(8)


def sync_directory(path: Path) -> None:
    """Make the names in ``path`` durable."""
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _spread(directory: Path) -> None:
    """Have ext4 spread the subdirectories over the disk, as it does those of ``/home``.

    Otherwise each layer lands in the block group of the one removed before it, where ext4 passes
    over every inode freed in the last minutes: ten thousand files then take 9 s instead of 1.
    """
    fd = os.open(directory, _DIRECTORY)
    try:
        flags = struct.unpack("i", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(4)))[0]
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("i", flags | _FS_TOPDIR_FL))
    except OSError:
        pass  # another file system, with its own ways
    finally:
        os.close(fd)


def _holds(fd: int, path: Path) -> bool:
    """Lock a new entry; False if a sweep came between its making and its locking."""
    if not try_lock(fd, Kind.SHARED):
        return False
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def _lost(path: Path) -> OSError:
    return OSError(f"{path}: every new entry was swept before it could be locked")
