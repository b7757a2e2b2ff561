"""The contents of files that change while a container stands still: copied then, to one file.

What stands still must do so for a moment only, and finding places for its files takes longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from .copying import Source
from .pack import changed


class Spool:
    """One file that the contents of many are appended to; ``check_room`` raises StoreFull."""

    def __init__(self, fd: int, check_room: Callable[[int], None]) -> None:
        self._fd, self._check_room = fd, check_room
        self._end = 0

    def append(self, path: bytes, source: int, size_bytes: int) -> Source:
        """Copy the file ``source``, which is at ``path``; return where its content is now.

        Raises Conflict for one that has become shorter, StoreFull, OSError.
        """
        self._check_room(size_bytes)
        begin = self._end
        while self._end < begin + size_bytes:
            left = begin + size_bytes - self._end
            copied = os.copy_file_range(source, self._fd, left, offset_dst=self._end)
            if not copied:
                raise changed(path)
            self._end += copied
        return Source(path, self._fd, begin, size_bytes, moving=False)
