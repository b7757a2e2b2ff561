"""What is in a directory of this machine, found through descriptors and no symbolic link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import InvalidLayer
from ..store import beneath
from ..store.unpack import WHITEOUT_PREFIX

_TREE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Found(NamedTuple):
    """A name in the directory that ``directory`` is open on; ``path`` begins at the tree."""

    directory: int
    name: str
    path: str
    status: os.stat_result

    def open(self) -> int:
        """Return a descriptor of the file that it is. Raises OSError."""
        return os.open(self.name, _FILE, dir_fd=self.directory)

    def target(self) -> str:
        """Return where the symbolic link that it is points. Raises OSError."""
        return os.readlink(self.name, dir_fd=self.directory)


def walk(tree: str, is_left_out: Callable[[str], bool]) -> Iterator[Found]:
    """Yield what is in the directory ``tree`` and those in it, but what is left out.

    Of a directory that is left out nothing is looked at. ``tree`` itself comes first, with an
    empty path. Raises InvalidLayer for a name that layers cannot have, OSError.
    """
    root = os.open(tree, _TREE)
    try:
        yield Found(root, "", "", os.fstat(root))
        directories = [""]
        while directories:
            above = directories.pop()
            fd = beneath.open_directory(root, os.fsencode(above))
            try:
                for found in _names(fd, f"{above}/" if above else "", is_left_out):
                    yield found
                    if stat.S_ISDIR(found.status.st_mode):
                        directories.append(found.path)
            finally:
                os.close(fd)
    finally:
        os.close(root)


def _names(fd: int, above: str, is_left_out: Callable[[str], bool]) -> Iterator[Found]:
    for name in sorted(os.listdir(fd)):  # sorted: the same plan each time
        path = above + name
        if is_left_out(path):
            continue
        if name.startswith(os.fsdecode(WHITEOUT_PREFIX)):
            raise InvalidLayer(
                f"{path[-80:]!r} cannot be put in a layer: names that begin with .wh. mean "
                "removals there"
            )
        yield Found(fd, name, path, os.stat(name, dir_fd=fd, follow_symlinks=False))
