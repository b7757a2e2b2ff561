"""File systems in memory that were asked for, and how many files one may hold."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...linux import mounts
from .building import Root
from .places import QUIET, attach_outside_kernel_trees

_INODES_WITHOUT_SIZE = 65536
_FEWEST_INODES = 1024
_BYTES_PER_INODE = 4096


@dataclass(frozen=True)
class Memory:
    """A file system in memory that was asked for."""

    target: str
    size_bytes: int | None
    mode: int
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        size = "half the memory" if self.size_bytes is None else f"{self.size_bytes} bytes"
        return f"tmpfs on {self.target} ({size}, mode {self.mode:o})"

    def execute(self, root: Root) -> None:
        """Make it and attach it at a directory, made if missing."""
        options = [
            (b"mode", b"%o" % self.mode),
            (b"nr_inodes", b"%d" % inode_bound(self.size_bytes)),
        ]
        if self.size_bytes is not None:
            options.append((b"size", b"%d" % self.size_bytes))
        fd = mounts.new_filesystem(b"tmpfs", options, QUIET)
        target = os.fsencode(self.target)
        attach_outside_kernel_trees(root, fd, mounts.ensure_directory(root.fd, target), target)


def inode_bound(size_bytes: int | None) -> int:
    """Return how many files a tmpfs of this size may hold.

    Without -m an inode's kernel memory (about 1 KiB) is charged to nobody: empty files count
    against no size.
    """
    if size_bytes is None:
        return _INODES_WITHOUT_SIZE
    return max(_FEWEST_INODES, size_bytes // _BYTES_PER_INODE)
