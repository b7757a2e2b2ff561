"""Copy-on-write trees, written to disk or to memory of a fixed size."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from ...linux import mounts
from ...linux import syscalls as sys
from .building import Root, Source
from .memory import inode_bound

SCRATCH = "scratch"
"""The name under which a root keeps the memory that takes what is written."""

_SCRATCH = SCRATCH.encode()
_NOBODY = 65534  # as whom the kernel shows an owner without an id in here (overflowuid)


@dataclass(frozen=True)
class Overlay:
    """A copy-on-write tree; the one at ``/`` makes the root."""

    target: str
    lowers: tuple[Source, ...]
    upper: Source | None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The lowers, bottom first, then the upper's parent."""
        return self.lowers if self.upper is None else (*self.lowers, self.upper)

    def describe(self) -> str:
        """Return the step in one line."""
        place = ", written in memory" if self.upper is None else ""
        return f"overlay of {len(self.lowers)} layers on {self.target}{place}"

    def execute(self, root: Root) -> None:
        """Stage the layers, mount the overlay on them and attach it."""
        lowers = [root.stage_clone() for _ in self.lowers]
        upper = _upper_in_memory(lowers[-1]) if self.upper is None else root.stage_clone()
        tree = mounts.overlay(lowers[::-1], upper + b"/fs", upper + b"/work")
        if self.target == "/":
            os.mkdir(b"root")
            sys.move_mount(tree, sys.AT_FDCWD, b"root")
            os.close(tree)
            root.fd = os.open(b"root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            root.attach(tree, self.target)


@dataclass(frozen=True)
class Scratch:
    """Memory of a fixed size that takes what is written to the overlays."""

    size_bytes: int
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        return f"tmpfs of {self.size_bytes} bytes for all that is written to the image's tree"

    def execute(self, root: Root) -> None:
        """Make it in the staging tree; keep it open, so that its room can be asked for."""
        options = [
            (b"mode", b"700"),
            (b"size", b"%d" % self.size_bytes),
            (b"nr_inodes", b"%d" % inode_bound(self.size_bytes)),
        ]
        fd = mounts.new_filesystem(b"tmpfs", options)
        os.mkdir(_SCRATCH)
        sys.move_mount(fd, sys.AT_FDCWD, _SCRATCH)
        os.close(fd)
        root.kept[SCRATCH] = os.open(_SCRATCH, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.setxattr(_SCRATCH, "user.cellblock", b"")
        except OSError as error:
            # Without, overlayfs could not tell replaced directories from merged ones.
            raise OSError(error.errno, "tmpfs keeps no user attributes (Linux 6.6 does)") from error


def _upper_in_memory(top: bytes) -> bytes:
    """Make an upper over the layer ``top``, with its attributes; return its parent's name."""
    parent = _SCRATCH + b"/" + top
    status = os.stat(top)
    for name, mode in ((b"", 0o755), (b"/fs", stat.S_IMODE(status.st_mode)), (b"/work", 0o700)):
        os.mkdir(parent + name)
        os.chmod(parent + name, mode)
    # The host's own trees, as an ordinary user sees them inside: the upper is root's then.
    owner, group = (0 if each == _NOBODY else each for each in (status.st_uid, status.st_gid))
    os.chown(parent + b"/fs", owner, group)
    return parent
