"""What a view shows, as one flat tree: entries of an archive, with no marks of what was removed.

Names that mean removals in a layer mean themselves here. What goes away while it is read is left
out; a file that becomes shorter ends it.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import ExitStack

from . import beneath, tar
from .pack import Place, changed, described, link, read
from .views import Node, Views


def flattened(views: Views, root: Node) -> Iterator[tar.Entry | bytes]:
    """Yield the entries of a view, in one order, each file's content after its entry.

    Sockets are left out, as archives have none. Raises Conflict for a file that changes while it
    is read, StoreError, InvalidLayer, OSError.
    """
    first: dict[tuple[int, int], bytes] = {}  # names of files that have several
    todo = [(b"", root)]
    while todo:
        path, node = todo.pop()
        with ExitStack() as opened:
            directories = _Directories(path, opened)
            directory = directories.of(node)
            if directory is None:
                continue
            yield from described(Place(directory, b"", path, node.status), read)
            above = path + b"/" if path else b""
            below = []
            for name, child in sorted(views.children(node, path).items()):
                if child.merged:
                    below.append((above + name, child))
                elif not stat.S_ISSOCK(child.status.st_mode):
                    place = Place(-1, name, above + name, child.status)
                    yield from _file(directories.of(child), place, first)
            todo += reversed(below)


class _Directories:
    """The directory at one path in each of the trees of a view, opened when it is needed."""

    def __init__(self, path: bytes, opened: ExitStack) -> None:
        self._path, self._opened = path, opened
        self._known: dict[int, int | None] = {}

    def of(self, node: Node) -> int | None:
        """Return a descriptor of what a node is in, or is itself; None if that went away."""
        if node.tree not in self._known:
            directory = beneath.directory(node.tree, self._path)
            self._known[node.tree] = self._opened.enter_context(directory)
        return self._known[node.tree]


def _file(
    directory: int | None, place: Place, first: dict[tuple[int, int], bytes]
) -> Iterator[tar.Entry | bytes]:
    """Yield what is no directory, if what it is in is there."""
    if directory is None:
        return
    inode = place.status.st_dev, place.status.st_ino
    if inode in first:
        yield link(place._replace(directory=directory), first[inode])
        return
    pieces = described(place._replace(directory=directory), read)
    try:
        entry = next(pieces)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return
        if error.errno in (errno.ELOOP, errno.EINVAL):  # a link now, or none any more
            raise changed(place.path) from error
        raise
    if place.status.st_nlink > 1:
        first[inode] = place.path
    yield entry
    yield from pieces
