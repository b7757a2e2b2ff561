"""What an overlay of directories shows, without mounting it, and how two of them differ.

A view is a stack of directories in overlayfs form. Where two views have the same directories of
the same stack, nothing differs below, and nothing there is read: comparing a container with its
image costs what the container wrote.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import InvalidLayer, StoreError
from . import beneath, owners
from .directories import MAX_PATH_BYTES, is_opaque, is_whiteout
from .pack import kept_xattrs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 2**20
_MAX_NAMES = 4_000_000  # as many as one layer may have; each takes some hundred bytes
Sign = Literal["A", "C", "D"]


class Node(NamedTuple):
    """What a view shows at a path: its status, and the tree (a descriptor) that it is from.

    ``merged`` are the trees whose directories come together here, the top one first; only a
    directory has any.
    """

    status: os.stat_result
    tree: int
    merged: tuple[int, ...]


class Difference(NamedTuple):
    """A path that was added (A), changed (C) or deleted (D).

    ``status`` is that of what is there now, of a deleted path what was; ``size_bytes`` that of a
    file and, for a deleted directory, of all files that were in it.
    """

    sign: Sign
    path: bytes
    status: os.stat_result
    size_bytes: int


class Views:
    """Views of directories that are opened once; close it by its ExitStack."""

    def __init__(self, held: ExitStack) -> None:
        self._held = held
        self._open: dict[Path, int] = {}
        self._left = _MAX_NAMES

    def root(self, stack: Sequence[Path]) -> Node:
        """Return the root of the view of these directories, the bottom one first.

        Raises OSError.
        """
        merged = tuple(map(self._tree, reversed(stack)))
        return Node(os.fstat(merged[0]), merged[0], merged)

    def children(self, node: Node, path: bytes) -> dict[bytes, Node]:
        """Return what the view shows in the directory ``node`` at ``path``, by name.

        What goes away meanwhile is left out. Raises StoreError for too many names in all,
        InvalidLayer for too long a path, OSError.
        """
        if len(path) > MAX_PATH_BYTES:
            raise InvalidLayer(f"{os.fsdecode(path[-80:])!r} cannot be read: its path is too long")
        shown: dict[bytes, Node] = {}
        closed: set[bytes] = set()  # what lower directories have of these does not show
        for tree in node.merged:
            with beneath.directory(tree, path) as fd:
                for name, status in self._entries(fd):
                    if name in closed:
                        continue
                    above = shown.get(name)
                    if not stat.S_ISDIR(status.st_mode):
                        closed.add(name)
                        if above is None and not is_whiteout(status):
                            shown[name] = Node(status, tree, ())
                        continue
                    if above is None:
                        shown[name] = Node(status, tree, (tree,))
                    else:
                        shown[name] = above._replace(merged=(*above.merged, tree))
                    if tree != node.merged[-1] and _is_opaque(fd, name):
                        closed.add(name)
        return shown

    def read(self, node: Node, path: bytes, most_bytes: int) -> bytes | None:
        """Return the beginning of the file ``node`` at ``path``; None if it is no file any more.

        Raises OSError.
        """
        head, _, name = path.rpartition(b"/")
        if not stat.S_ISREG(node.status.st_mode):
            return None
        with beneath.directory(node.tree, head) as directory:
            if directory is None:
                return None
            try:
                with _opened(name, directory) as fd:
                    is_file = stat.S_ISREG(os.fstat(fd).st_mode)
                    return _content(fd, most_bytes) if is_file else None
            except OSError as error:
                if error.errno not in beneath.GONE:
                    raise
                return None

    def differences(
        self, before: Node, after: Node, *, without: Collection[bytes] = ()
    ) -> Iterator[Difference]:
        """Yield how the view ``after`` differs from ``before``, in no order.

        Of ``without``, empty files and directories are left out. A directory has changed if its
        mode, owner or attributes have. Raises as :meth:`children` does.
        """
        todo = [(b"", before, after)]
        while todo:
            path, old, new = todo.pop()
            if old.merged == new.merged:
                continue
            were, are = self.children(old, path), self.children(new, path)
            for name in were.keys() | are.keys():
                below = path + b"/" + name if path else name
                was, is_ = were.get(name), are.get(name)
                if is_ is None:
                    assert was is not None
                    yield Difference("D", below, was.status, self._size(was, below))
                    continue
                if below in without and self._is_empty(is_, below):
                    continue
                if was is None or not _same(was, is_, below):
                    sign: Sign = "A" if was is None else "C"
                    yield Difference(sign, below, is_.status, _bytes(is_.status))
                if is_.merged:
                    todo.append((below, was or is_._replace(merged=()), is_))

    def _size(self, node: Node, path: bytes) -> int:
        total, todo = 0, [(path, node)]
        while todo:
            path, node = todo.pop()
            total += _bytes(node.status)
            if node.merged:
                found = self.children(node, path)
                todo += ((path + b"/" + name, child) for name, child in found.items())
        return total

    def _is_empty(self, node: Node, path: bytes) -> bool:
        if node.merged:
            return not self.children(node, path)
        return stat.S_ISREG(node.status.st_mode) and not node.status.st_size

    def _tree(self, path: Path) -> int:
        if path not in self._open:
            self._open[path] = os.open(path, _DIRECTORY)
            self._held.callback(os.close, self._open[path])
        return self._open[path]

    def _entries(self, fd: int | None) -> Iterator[tuple[bytes, os.stat_result]]:
        if fd is None:
            return
        with os.scandir(fd) as found:
            for entry in found:
                self._left -= 1
                if self._left < 0:
                    raise StoreError(f"more than {_MAX_NAMES} names would have to be compared")
                try:
                    yield os.fsencode(entry.name), entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue


def _is_opaque(fd: int | None, name: bytes) -> bool:
    assert fd is not None
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=fd)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return is_opaque(directory)
    finally:
        os.close(directory)


def _bytes(status: os.stat_result) -> int:
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _same(was: Node, is_: Node, path: bytes) -> bool:
    """Tell whether both are the same to whoever looks; files of one look are read."""
    old, new = was.status, is_.status
    if (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino):
        return True
    if _signature(old) != _signature(new):
        return False
    head, _, name = path.rpartition(b"/")
    with (
        beneath.directory(was.tree, head) as old_in,
        beneath.directory(is_.tree, head) as new_in,
    ):
        if old_in is None or new_in is None:
            return False  # it is going away
        try:
            return _same_inside(stat.S_IFMT(old.st_mode), name, old_in, new_in)
        except OSError as error:
            if error.errno not in beneath.GONE:
                raise
            return False


def _same_inside(kind: int, name: bytes, old_in: int, new_in: int) -> bool:
    if kind == stat.S_IFLNK:
        return os.readlink(name, dir_fd=old_in) == os.readlink(name, dir_fd=new_in)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        return True
    with _opened(name, old_in) as one, _opened(name, new_in) as other:
        return _same_content(one, other)


@contextmanager
def _opened(name: bytes, directory: int) -> Iterator[int]:
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _content(fd: int, most_bytes: int) -> bytes:
    found = bytearray()
    while piece := os.read(fd, min(most_bytes - len(found), _PIECE_BYTES)):
        found += piece
    return bytes(found)


def _same_content(one: int, other: int) -> bool:
    if kept_xattrs(one) != kept_xattrs(other):
        return False
    if owners.are_recorded() and owners.recorded(one) != owners.recorded(other):
        return False
    if stat.S_ISDIR(os.fstat(one).st_mode):
        return True
    left = os.fstat(one).st_size
    while left > 0:
        piece = os.read(one, min(left, _PIECE_BYTES))
        if not piece or piece != os.read(other, len(piece)):
            return False
        left -= len(piece)
    return True


def _signature(status: os.stat_result) -> tuple[int, ...]:
    """Return all but the content; a directory's time only says that something in it changed."""
    same = status.st_mode, status.st_uid, status.st_gid
    if stat.S_ISDIR(status.st_mode):
        return same
    return (*same, status.st_size, status.st_mtime_ns, status.st_rdev)
