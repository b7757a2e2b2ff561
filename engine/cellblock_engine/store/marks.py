"""What a container has written, as it was at one moment: by how much it differs from another.

A mark is what tells whether a file may have been changed since: its inode and times, as a kernel
sets them for whatever is done to it (ctime; a container cannot set it). Contents are not looked at.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InvalidLayer
from .directories import is_opaque, is_whiteout
from .pack import Place, is_left_out, nothing, places

CLOCK_NS = 50_000_000
"""Longer than the kernel's clock for times of files stands still (10 ms at 100 Hz)."""

_NEVER_NS = -1
_MOST = 4_000_000  # as many as one layer may have


class Mark(NamedTuple):
    """Of one path. A directory's size and mtime say nothing, a whiteout is like any other."""

    mode: int
    inode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    links: int
    device: int
    opaque: bool

    @property
    def is_directory(self) -> bool:
        """Whether it is of a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is of a regular file."""
        return stat.S_ISREG(self.mode)


Marks = Mapping[bytes, Mark]
WHITEOUT = Mark(stat.S_IFCHR, 0, 0, 0, 0, 0, 0, 0, 0, opaque=False)


@dataclass(frozen=True)
class Delta:
    """What is news since an earlier moment; paths have no leading slash.

    ``told`` are paths that are no directories, those that are ``gone`` with them, which are also
    there by the directory that they were in; ``emptied`` directories hide what was in them
    before; ``unchanged`` ones have the attributes that they had.
    """

    told: Collection[bytes]
    gone: Mapping[bytes, Collection[bytes]]
    emptied: Collection[bytes]
    unchanged: Collection[bytes]


def take(
    root: int,
    *,
    without: Collection[bytes] = (),
    moving: bool = False,
) -> dict[bytes, Mark]:
    """Return the marks of what :func:`.pack.entries` tells of, those above first.

    In a ``moving`` tree, what goes away meanwhile is left out. Raises InvalidLayer, also for a
    tree that grows on and on, and OSError.
    """
    found: dict[bytes, Mark] = {}
    for place in places(root, nothing, moving=moving):
        if not is_left_out(place, without):
            found[place.path] = mark_of(place)
            if len(found) > _MOST:
                raise InvalidLayer(f"more than {_MOST} files and directories are in the container")
    return found


def mark_of(place: Place) -> Mark:
    """Return the mark of what is there. Raises OSError."""
    status = place.status
    if is_whiteout(status):
        return WHITEOUT
    if stat.S_ISDIR(status.st_mode):
        opaque = bool(place.path) and is_opaque(place.directory)
        return of_status(status)._replace(size=0, mtime_ns=0, links=0, opaque=opaque)
    return of_status(status)


def data_bytes(marks: Marks, delta: Delta | None = None) -> int:
    """Return how much the files that are told of hold, holes counted as data."""
    sizes = {
        mark.inode: mark.size
        for path, mark in marks.items()
        if stat.S_ISREG(mark.mode) and (delta is None or path in delta.told)
    }
    return sum(sizes.values())


def youngest_ns(marks: Marks) -> int:
    """Return when something was changed last."""
    return max((mark.ctime_ns for mark in marks.values()), default=0)


def settled(marks: Marks, before_ns: int) -> dict[bytes, Mark]:
    """Return the marks, those of changes after ``before_ns`` so that none is ever equal to them.

    What is done to a file at the next moment may leave it with the same times.
    """
    return {
        path: mark if mark.ctime_ns < before_ns else mark._replace(ctime_ns=_NEVER_NS)
        for path, mark in marks.items()
    }


def await_settling(marks: Marks) -> int:
    """Wait until what is done to files from now on shows in their times; return that moment.

    At most for the time that the kernel's clock stands still.
    """
    wait_ns = youngest_ns(marks) + CLOCK_NS - time.time_ns()
    if 0 <= wait_ns <= CLOCK_NS:
        time.sleep((wait_ns + 1_000_000) / 1e9)
    return time.time_ns() - CLOCK_NS


def since(old: Marks, new: Marks) -> Delta | None:
    """Return what is news in ``new``, where directories come before what is in them.

    None where that cannot be said, as something of the layers below may show again that did not:
    no container can do that to its files.
    """
    news = _News()
    if not all(news.takes(path, mark, old.get(path)) for path, mark in new.items()):
        return None
    _add_other_names(news.told, new)
    gone: dict[bytes, list[bytes]] = {}
    for path, was in old.items():
        if path in new:
            continue
        head = _above(path)
        above = new.get(head)
        if above is None or not above.is_directory or head in news.whole:
            continue  # with what it was in
        if was != WHITEOUT:
            gone.setdefault(head, []).append(path[len(head) :].lstrip(b"/"))
            news.told.add(path)
        elif not above.opaque:
            return None
    return Delta(news.told, gone, news.emptied, news.unchanged)


class _News:
    """What is told of paths that are there; ``whole`` are directories of which all is."""

    def __init__(self) -> None:
        self.told: set[bytes] = set()
        self.emptied: set[bytes] = set()
        self.unchanged: set[bytes] = set()
        self.whole: set[bytes] = set()

    def takes(self, path: bytes, mark: Mark, was: Mark | None) -> bool:
        """Sort a path in; False where a directory no longer hides what is below it."""
        inside = bool(path) and _above(path) in self.whole
        if not mark.is_directory:
            if inside or mark != was:
                self.told.add(path)
        elif inside:
            self._take_whole(path, mark)
        elif mark == was:
            self.unchanged.add(path)
        elif was is not None and was.opaque:
            return mark.opaque
        elif mark.opaque:
            self._take_whole(path, mark)
        return True

    def _take_whole(self, path: bytes, mark: Mark) -> None:
        self.whole.add(path)
        if mark.opaque:
            self.emptied.add(path)


def of_status(status: os.stat_result) -> Mark:
    """Return the mark of a file that is neither a directory nor a whiteout."""
    return Mark(
        status.st_mode,
        status.st_ino,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_nlink,
        status.st_rdev,
        opaque=False,
    )


def _add_other_names(told: set[bytes], new: Marks) -> None:
    """Tell all names of a file or none, as a layer's hard link has its file in that layer."""
    inodes = {mark.inode for path in told if (mark := new[path]).links > 1}
    if inodes:
        told |= {path for path, mark in new.items() if mark.links > 1 and mark.inode in inodes}


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
