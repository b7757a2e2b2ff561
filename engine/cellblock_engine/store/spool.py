"""The contents of a running container's files, copied so that it stands still for a moment only.

All are copied while it runs. When it stands still, a file that is as it was needs no second copy:
its size and times are the same, and were not so young that a later change could have them too.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..errors import Conflict
from ..linux import syscalls as sys
from . import tar
from .marks import CLOCK_NS
from .pack import Place, changed, nothing, open_file, places

_PIECE_BYTES = 2**20


class Held(NamedTuple):
    """Where in the spool the content of a file is."""

    offset: int
    size: int


class _Copy(NamedTuple):
    held: Held
    like: tuple[int, ...]


class Spool:
    """One file that the contents of many are appended to; ``check_room`` raises StoreFull."""

    def __init__(self, fd: int, check_room: Callable[[int], None]) -> None:
        self._fd, self._check_room = fd, check_room
        self._end = 0
        self._copies: dict[tuple[int, int], _Copy] = {}

    def fill(
        self,
        root: int,
        excluded: Callable[[bytes], bool] = nothing,
        *,
        wanted: Callable[[Place], bool] = lambda _place: True,
    ) -> int:
        """Copy what can be copied now of the files in ``root`` that are ``wanted``.

        Returns the moment, in nanoseconds, since which whatever is done to a file, by a memory
        mapping too, shows in its times. Raises StoreFull, OSError.
        """
        seen = {}
        for place in places(root, excluded, moving=True):
            if stat.S_ISREG(place.status.st_mode) and wanted(place):
                seen[_key(place.status)] = place.status
        now_ns = time.time_ns()
        # Pages that are written to by memory mappings: only the first write to a clean one shows
        # in the file's times.
        sys.syncfs(root)
        for place in places(root, excluded, moving=True):
            status = seen.pop(_key(place.status), None)
            if status is None or _is_young(status, now_ns):
                continue
            try:
                fd, opened = open_file(place)
            except (FileNotFoundError, Conflict):
                continue  # it has another file by now
            try:
                same = (_key(opened), _like(opened)) == (_key(status), _like(status))
                held = self._append(fd, status.st_size) if same else None
            finally:
                os.close(fd)
            if held is not None:
                self._copies[_key(status)] = _Copy(held, _like(status))
        return now_ns - CLOCK_NS

    def contents(self, path: bytes, fd: int, status: os.stat_result) -> Iterator[Held]:
        """Yield where the content of a file is that stands still. Raises Conflict, StoreFull."""
        copy = self._copies.get(_key(status))
        if copy is not None and copy.like == _like(status):
            yield copy.held
            return
        held = self._append(fd, status.st_size)
        if held is None:
            raise changed(path)
        yield held

    def read(self, described: Iterable[tar.Entry | Held]) -> Iterator[tar.Entry | bytes]:
        """Yield the same with what is held."""
        for each in described:
            if isinstance(each, tar.Entry):
                yield each
                continue
            offset, left = each
            while left:
                piece = os.pread(self._fd, min(left, _PIECE_BYTES), offset)
                offset, left = offset + len(piece), left - len(piece)
                yield piece

    def _append(self, source: int, size: int) -> Held | None:
        """Copy a file; None where it has become shorter."""
        self._check_room(size)
        begin = self._end
        while self._end < begin + size:
            left = begin + size - self._end
            copied = os.copy_file_range(source, self._fd, left, offset_dst=self._end)
            if not copied:
                self._end = begin
                return None
            self._end += copied
        return Held(begin, size)


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _like(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_young(status: os.stat_result, now_ns: int) -> bool:
    return status.st_ctime_ns > now_ns - CLOCK_NS
