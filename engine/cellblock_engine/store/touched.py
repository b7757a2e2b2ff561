"""Directories that a layer need not tell of: nothing in them, and like those of the layers below.

An overlay copies a directory up for whatever is done in it, so a container that has changed
nothing has some. That only its time has changed is no change.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from . import owners, tar
from .directories import is_opaque, is_whiteout
from .pack import kept_xattrs
from .unpack import OPAQUE_MARKER

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_Content = TypeVar("_Content")


class Lowers:
    """The layers below, the bottom one first; to be used as a context manager."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths[::-1]
        self._stack = ExitStack()
        self._fds: list[int] = []

    def __enter__(self) -> Lowers:
        with ExitStack() as stack:
            for path in self._paths:
                self._fds.append(os.open(path, _DIRECTORY))
                stack.callback(os.close, self._fds[-1])
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def changes(
        self, described: Iterable[tar.Entry | _Content], known: Collection[bytes] = ()
    ) -> Iterator[tar.Entry | _Content]:
        """Yield what is ``described`` without the directories that were only touched.

        Those at the paths ``known`` are as the layers below have them.
        """
        waiting: list[tar.Entry] = []
        own = None  # the directory that hides all that is below it
        for each in described:
            if not isinstance(each, tar.Entry):
                yield each
                continue
            while waiting and not each.name.startswith(_prefix(waiting[-1])):
                waiting.pop()
            if own is not None and not each.name.startswith(own):
                own = None
            if (
                each.kind == tar.DIRECTORY
                and own is None
                and (_prefix(each)[:-1] in known or self._has(each))
            ):
                waiting.append(each)
                continue
            if own is None and each.name.endswith(OPAQUE_MARKER):
                own = each.name.removesuffix(OPAQUE_MARKER)
            yield from waiting
            waiting.clear()
            yield each

    def shows(self, path: bytes) -> bool:
        """Return whether a container without changes has anything at this path."""
        return self.kind(path) is not None

    def kind(self, path: bytes) -> int | None:
        """Return what a container without changes has there, as in st_mode; None for nothing."""
        above, _, name = path.rpartition(b"/")
        for root in self._fds:
            fd, more = _walk(root, above.split(b"/") if above else [])
            if fd is not None:
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    return None if is_whiteout(status) else stat.S_IFMT(status.st_mode)
                except FileNotFoundError:
                    pass
                finally:
                    os.close(fd)
            if not more:
                break
        return None

    def _has(self, entry: tar.Entry) -> bool:
        """Return whether a container without changes has this directory, as it is."""
        names = [name for name in entry.name.split(b"/") if name not in (b"", b".")]
        for root in self._fds:
            fd, more = _walk(root, names)
            if fd is not None:
                try:
                    status = os.fstat(fd)
                    owner = owners.of(status, fd)
                    found = (stat.S_IMODE(status.st_mode), *owner, kept_xattrs(fd))
                    return found == (entry.mode, entry.uid, entry.gid, entry.xattrs)
                finally:
                    os.close(fd)
            if not more:
                break
        return False


def _walk(root: int, names: Sequence[bytes]) -> tuple[int | None, bool]:
    """Return a descriptor of a layer's directory, or None and whether those below may have it."""
    fd, more = os.dup(root), True
    for name in names:
        above = fd
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=above)
            more = more and not is_opaque(fd)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return None, more and error.errno == errno.ENOENT
        finally:
            os.close(above)
    return fd, more


def _prefix(directory: tar.Entry) -> bytes:
    return b"" if directory.name == b"./" else directory.name
