"""Removing directory trees that others made.

Whatever is in them, nothing outside is touched: every step is relative to a directory descriptor
and follows no symbolic link. The walk keeps one descriptor and its own stack, so depth costs no
recursion and no descriptors. Standard library only, and little of it: the spawner imports this.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path | str | bytes) -> None:
    """Remove the file or directory ``path`` and all below it; nothing there is no error.

    Two may remove the same tree at once, as a container's monitor and its owner do. Mount points
    below fail with OSError (EBUSY), as in rmdir(2).
    """
    parent, name = os.path.split(os.fsencode(path).rstrip(b"/"))
    try:
        parent_fd = os.open(parent or b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_at(parent_fd, name)
    finally:
        os.close(parent_fd)


def put_aside(path: str) -> str:
    """Rename a directory to one with a dot before its name, and return that.

    Who has yet to open something by its path finds nothing, and nobody sees it half removed.
    """
    parent, _, name = path.rpartition("/")
    aside = f"{parent}/.{name}"
    with suppress(FileNotFoundError):  # somebody else did
        os.rename(path, aside)  # noqa: PTH104 - without importing pathlib
    return aside


def remove_at(parent_fd: int, name: bytes) -> None:
    """Remove the entry ``name`` of a directory and all below it; nothing there is no error."""
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # EPERM: POSIX's answer for a directory
        _remove_directory(parent_fd, name)


def _remove_directory(parent_fd: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except OSError:
        pass
    else:
        return
    try:
        current = _open(parent_fd, name)
    except FileNotFoundError:
        return
    try:
        # One element a level: its identity, its name in its parent, what is left to do in it.
        levels = [(_identity(current), name, _clear(current))]
        while levels:
            _, inside, directories = levels[-1]
            if directories:
                child = directories.pop()
                try:
                    below = _open(current, child)
                except FileNotFoundError:
                    continue
                os.close(current)
                current = below
                levels.append((_identity(current), child, _clear(current)))
                continue
            levels.pop()
            if levels:
                above = os.open(b"..", _DIRECTORY, dir_fd=current)
                os.close(current)
                current = above
                if _identity(current) != levels[-1][0]:
                    raise OSError(errno.ESTALE, "the directory was moved while it was removed")
                _rmdir(current, inside)
    finally:
        os.close(current)
    _rmdir(parent_fd, name)


def _rmdir(parent_fd: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _clear(fd: int) -> list[bytes]:
    """Unlink all but directories; return the names of those that are not empty."""
    directories = []
    try:
        with os.scandir(fd) as found:
            entries = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in found]
    except FileNotFoundError:  # the directory itself is gone
        return []
    for name, is_directory in entries:
        try:
            if is_directory:
                os.rmdir(name, dir_fd=fd)
            else:
                os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            continue
        except OSError:
            if not is_directory:
                raise
            directories.append(name)
    return directories


def _open(parent_fd: int, name: bytes) -> int:
    """Open a directory that is about to be emptied, whatever its mode."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except PermissionError:
        _make_accessible(parent_fd, name)
        return os.open(name, _DIRECTORY, dir_fd=parent_fd)
    if os.geteuid() != 0 and os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd


def _make_accessible(parent_fd: int, name: bytes) -> None:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent_fd)
    try:
        # fchmod(2) refuses O_PATH descriptors.
        os.chmod(f"/proc/self/fd/{fd}", 0o700)  # noqa: PTH101 - without importing pathlib
    finally:
        os.close(fd)
