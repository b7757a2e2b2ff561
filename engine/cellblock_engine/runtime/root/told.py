"""What tells programs their container's limits: files over the kernel's, and its control groups."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...linux import mounts
from ...linux import syscalls as sys
from ...linux.cgroups import SHOWN_AT, Limits
from ..figures import figures
from .building import Root, Source
from .places import QUIET, cover_with_file

_GROUPS = "/sys/fs/cgroup"
_BYTES_PER_FILE = 16384


@dataclass(frozen=True)
class Figures:
    """Files of /proc and /sys with the limits in them; nobody inside can write them."""

    targets: tuple[str, ...]
    limits: Limits
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        return f"limits told in {' '.join(self.targets)} (ro)"

    def execute(self, root: Root) -> None:
        """Make them in one file system of the staging tree, attach a read-only clone of each.

        They are kept open: limits can change.
        """
        size = b"%d" % (_BYTES_PER_FILE * len(self.targets))
        tree = mounts.new_filesystem(b"tmpfs", [(b"mode", b"755"), (b"size", size)], QUIET)
        os.mkdir(b"figures")
        sys.move_mount(tree, sys.AT_FDCWD, b"figures")
        os.close(tree)
        for number, target in enumerate(self.targets):
            name = b"figures/%d" % number
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444)
            os.write(fd, figures(target, self.limits).encode())
            root.kept[target] = fd
            place = mounts.open_in_root(root.fd, os.fsencode(target), follow=False)
            cover_with_file(place, name, sys.MOUNT_ATTR_RDONLY)


@dataclass(frozen=True)
class Groups:
    """The container's own control groups, to be read: limits, and what is in use now."""

    groups: tuple[tuple[str, str], ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        """Their directories, in order."""
        return tuple(Source(path, "never") for _, path in self.groups)

    def describe(self) -> str:
        """Return the step in one line."""
        return f"control groups ({' '.join(name for name, _ in self.groups)}) on {_GROUPS} (ro)"

    def execute(self, root: Root) -> None:
        """Attach them in a directory that is empty otherwise; v2's is the whole of it."""
        if [name for name, _ in self.groups] == [SHOWN_AT]:
            clone = root.next_clone()
            sys.mount_setattr(clone, b"", sys.AT_EMPTY_PATH, QUIET | sys.MOUNT_ATTR_RDONLY)
            place = mounts.open_in_root(root.fd, os.fsencode(_GROUPS), follow=False)
            sys.move_mount(clone, place)
            os.close(place)
            os.close(clone)
            return
        tree = mounts.new_filesystem(b"tmpfs", [(b"mode", b"755"), (b"size", b"4k")], QUIET)
        place = mounts.open_in_root(root.fd, os.fsencode(_GROUPS), follow=False)
        sys.move_mount(tree, place)
        os.close(place)
        for name, _ in self.groups:
            os.mkdir(name, 0o755, dir_fd=tree)
            clone = root.next_clone()
            sys.mount_setattr(clone, b"", sys.AT_EMPTY_PATH, QUIET | sys.MOUNT_ATTR_RDONLY)
            sys.move_mount(clone, tree, os.fsencode(name))
            os.close(clone)
        sys.mount_setattr(tree, b"", sys.AT_EMPTY_PATH, sys.MOUNT_ATTR_RDONLY)
        os.close(tree)
