"""What of a container's files stays out of its image: what was asked for, and what nobody misses.

Of a path that is excluded, the image shows what the images below have there, less what the
container has removed of it: that something is gone is never excluded, as old content would come
back for it. A directory of which nothing is kept is not told of.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from ..patterns import Patterns
from . import tar
from .marks import WHITEOUT, Mark, Marks
from .pack import ROOT
from .unpack import OPAQUE_MARKER, WHITEOUT_PREFIX

DEFAULT_PATTERNS = (
    "tmp/*",
    "var/tmp/*",
    "run/*",
    "**/.cache/pip",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/archives/partial/*",
    "var/lib/apt/lists/*",
    "**/.ipython/profile_*/history.sqlite*",
    "**/.bash_history",
    "**/.python_history",
)
_Content = TypeVar("_Content")


class Exclusion:
    """What is excluded, by patterns as in a .dockerignore; sockets are left out in any case."""

    def __init__(self, patterns: Sequence[str], *, defaults: bool = True) -> None:
        """Take patterns, after the :data:`DEFAULT_PATTERNS` if wanted. Raises InvalidInput."""
        self._patterns = Patterns((*DEFAULT_PATTERNS * defaults, *patterns))

    def __call__(self, path: bytes) -> bool:
        """Tell whether a path stays out; with a slash at its end, with all below it."""
        if path.endswith(b"/") and self._patterns.has_exceptions:
            return False
        return self._patterns.match(path.rstrip(b"/"))

    def image_of(
        self, now: Marks, old: Marks, below: Callable[[bytes], int | None]
    ) -> dict[bytes, Mark]:
        """Return the marks of what an image is to have of a container's files.

        They have the marks ``now``; the image is made above one that has ``old`` of them, and
        ``below`` tells what that shows at a path (:meth:`.touched.Lowers.kind`). What is excluded
        stays as it was, but for a directory that something else is in the place of: it is gone.
        """
        found: dict[bytes, Mark] = {}
        hidden = None  # what is in this directory
        for path, mark in now.items():
            was = old.get(path)
            if hidden is not None and path.startswith(hidden):
                continue
            if mark == WHITEOUT or not self(path):
                found[path] = mark
            elif not mark.is_directory:
                if below(path) == stat.S_IFDIR:
                    found[path] = WHITEOUT
                elif was is not None and not was.is_directory:
                    found[path] = was
            elif mark.opaque and self(path + b"/") and not (was and was.opaque):
                hidden = path + b"/"
                if below(path) is not None:
                    found[path] = WHITEOUT
            else:
                found[path] = mark
        return found

    def among(self, image: Marks) -> Callable[[bytes], bool]:
        """Return what :func:`.pack.entries` is to be told, of an image with these marks."""

        def excluded(path: bytes) -> bool:
            if not self(path):
                return False
            mark = image.get(path.removesuffix(b"/"))
            return not path.endswith(b"/") or mark is None or not mark.is_directory

        return excluded

    def replaced(self, image: Marks, now: Marks) -> frozenset[bytes]:
        """Return the paths of which the image is to show nothing, and the container has a file."""
        return frozenset(
            path
            for path, mark in image.items()
            if mark == WHITEOUT != now[path] and not now[path].is_directory
        )

    def told(self, image: Marks, old: Marks) -> dict[bytes, Mark]:
        """Return the marks of an image without directories that :meth:`applied` left out."""
        needed: set[bytes] = set()
        for path, mark in image.items():
            above = path.rpartition(b"/")[0]
            while not mark.is_directory and above and above not in needed:
                needed.add(above)
                above = above.rpartition(b"/")[0]
        return {
            path: mark
            for path, mark in image.items()
            if not mark.is_directory or path in needed or path in old or not self(path)
        }

    def applied(
        self, described: Iterable[tar.Entry | _Content], below: Callable[[bytes], bool]
    ) -> Iterator[tar.Entry | _Content]:
        """Yield what is ``described`` without directories and removals that are not needed.

        The rest was left out by whoever described it. ``below`` tells whether the images below
        have something at a path.
        """
        waiting: list[tar.Entry] = []  # excluded directories, each in the one before
        for each in described:
            if not isinstance(each, tar.Entry):
                yield each
                continue
            while waiting and not each.name.startswith(waiting[-1].name):
                waiting.pop()
            if each.kind == tar.DIRECTORY and each.name != ROOT and self(each.name.rstrip(b"/")):
                waiting.append(each)
                continue
            hidden = _hidden(each)
            if hidden is not None and self(hidden) and not below(hidden):
                continue
            yield from waiting
            waiting.clear()
            yield each


def _hidden(entry: tar.Entry) -> bytes | None:
    """Return what of the images below an entry hides, if it is a marker that does."""
    above, _, name = entry.name.rpartition(b"/")
    if name == OPAQUE_MARKER:
        return above
    if name.startswith(WHITEOUT_PREFIX):
        return b"/".join(filter(None, (above, name.removeprefix(WHITEOUT_PREFIX))))
    return None
