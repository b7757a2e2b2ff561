"""What a layer is to hold, as data: its files, links and directories by path.

Nothing is read but names, attributes and what ELF files say; contents are read when the layer is
made. Real paths alone are names of files and directories; a link that leads to one, on this
machine, is a node of its own. All belongs to user 0, no file is set-id, and only files have a
time: that of a directory tells of its past, not of what is in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..errors import Conflict, Unsupported
from ..hostimage.trail import Trail
from ..store import tar
from ..store.beneath import GONE
from . import elf, omissions
from .walk import Found, walk

_MAX_NODES = 2_000_000
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Node(NamedTuple):
    """One name. A file is this machine's at the same path, or ``content`` where that is given."""

    path: str
    kind: bytes
    mode: int
    mtime_ns: int = 0
    size: int = 0
    link: str = ""
    content: bytes | None = None


class Draft:
    """The nodes of a layer in the making, above those that are in layers below.

    ``programs`` are its ELF files by path. ``unreadable`` counts what the caller may not read.
    """

    def __init__(self, trail: Trail, below: Mapping[str, Node]) -> None:
        self._trail = trail
        self._below = below
        self._nodes: dict[str, Node] = {}
        self.programs: dict[str, elf.Elf] = {}
        self.unreadable = 0

    def has(self, path: str) -> bool:
        """Tell whether there is something at this real path, here or below."""
        return path in self._nodes or path in self._below

    def real(self, path: str) -> str:
        """Return a path without the links in it, which become part of the layer."""
        return self._trail.follow(path)

    def tree(
        self, path: str, is_left_out: Callable[[str], bool] = omissions.is_left_out
    ) -> list[str]:
        """Add a directory with all in it, but what ``is_left_out`` by its path in it.

        Returns the links in it. Raises Conflict for a tree that changes meanwhile, OSError.
        """
        real = self._trail.follow(path)
        above = real.rstrip("/") + "/"
        links: list[str] = []
        if self._cannot_read(real):
            return links
        try:
            for found in walk(
                real, lambda name: is_left_out(name) or self._cannot_read(above + name)
            ):
                here = above + found.path if found.path else real
                if self._place(found, here):
                    links.append(here)
        except OSError as error:
            if error.errno not in GONE:
                raise
            raise Conflict(f"{real} changed while it was looked at: try again") from error
        return links

    def file(self, path: str) -> str:
        """Add one file with the links that lead to it, if there is one; return its real path.

        An empty string where there is no regular file that the caller may read.
        """
        real = self._trail.follow(path)
        if self.has(real):
            return real
        try:
            fd = os.open(real, _FILE | os.O_NOFOLLOW)
        except OSError:
            return ""
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return ""
            self._add(_file(real, status))
            if found := elf.read(fd):
                self.programs[real] = found
        finally:
            os.close(fd)
        return real

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add an empty directory."""
        self._add(Node(path, tar.DIRECTORY, mode))

    def text(self, path: str, content: bytes) -> None:
        """Add a file that this machine does not have, or replace one of a layer below."""
        node = Node(path, tar.FILE, 0o644, size=len(content), content=content)
        if self._below.get(path) != node:
            self._nodes[path] = node

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link that this machine does not have."""
        self._add(Node(path, tar.SYMLINK, 0o777, link=target))

    def close(self) -> tuple[Node, ...]:
        """Return all nodes, the directories that they are in among them, in an archive's order."""
        for path, target in self._trail.links.items():
            self.link(path, target)
        for path in list(self._nodes):
            while path != "/":
                path = path.rpartition("/")[0] or "/"  # noqa: PLW2901 - a walk up
                if path in self._nodes:
                    break
                below = self._below.get(path)
                if below is None or below.kind != tar.DIRECTORY:
                    below = Node(path, tar.DIRECTORY, 0o755)
                self._nodes[path] = below
        return tuple(sorted(self._nodes.values(), key=_order))

    def _add(self, node: Node) -> None:
        if not self.has(node.path):
            if len(self._nodes) >= _MAX_NODES:
                raise Unsupported(
                    f"the environment has more than {_MAX_NODES} files: name a smaller one"
                )
            self._nodes[node.path] = node

    def _place(self, found: Found, path: str) -> bool:
        """Add what was found in a tree; tell whether it is a link."""
        mode = found.status.st_mode
        if stat.S_ISDIR(mode):
            self._add(Node(path, tar.DIRECTORY, mode & 0o777))
        elif stat.S_ISLNK(mode):
            self._add(Node(path, tar.SYMLINK, 0o777, link=found.target()))
            return True
        elif stat.S_ISREG(mode) and not self.has(path):
            self._add(_file(path, found.status))
            if _may_be_program(found):
                fd = found.open()
                try:
                    if program := elf.read(fd):
                        self.programs[path] = program
                finally:
                    os.close(fd)
        return False

    def _cannot_read(self, path: str) -> bool:
        if os.geteuid() == 0 or os.access(path, os.R_OK, follow_symlinks=False):
            return False
        self.unreadable += 1
        return True


def _file(path: str, status: os.stat_result) -> Node:
    return Node(path, tar.FILE, status.st_mode & 0o777, status.st_mtime_ns, status.st_size)


def _may_be_program(found: Found) -> bool:
    status = found.status
    return status.st_size >= elf.SMALLEST_BYTES and (
        ".so" in found.name or bool(status.st_mode & 0o111)
    )


def _order(node: Node) -> tuple[tuple[bool, bytes], ...]:
    """Return what sorts as the store packs a directory: what is in it, then those below it."""
    names = os.fsencode(node.path).split(b"/")[1:] if node.path != "/" else []
    is_directory = node.kind == tar.DIRECTORY
    return tuple(
        (number < len(names) or is_directory, name) for number, name in enumerate(names, 1)
    )
