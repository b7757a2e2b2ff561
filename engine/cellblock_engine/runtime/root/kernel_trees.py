"""/proc, /sys and /dev: the kernel's own trees, fresh, masked and made read-only."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from ...linux import mounts
from ...linux import syscalls as sys
from .building import Root
from .places import QUIET

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/fs/selinux",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class FileSystem:
    """A new file system of the kernel's, at a place that must be a true directory."""

    target: str
    fstype: str
    options: tuple[tuple[str, str | None], ...] = ()
    attributes: int = QUIET

    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        words = (key if value is None else f"{key}={value}" for key, value in self.options)
        return f"{self.fstype} on {self.target} ({','.join(words)})"

    def execute(self, root: Root) -> None:
        """Make it and attach it."""
        options = [
            (key.encode(), None if value is None else value.encode()) for key, value in self.options
        ]
        fd = mounts.new_filesystem(self.fstype.encode(), options, self.attributes)
        root.attach(fd, self.target, follow=False)


@dataclass(frozen=True)
class Devices:
    """The few device nodes of the host that every program expects, and the usual links."""

    names: tuple[str, ...] = DEVICES
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        return f"devices {' '.join(self.names)} on /dev"

    def execute(self, root: Root) -> None:
        """Clone each node from this mount namespace, which still has the host's /dev."""
        dev = mounts.open_in_root(root.fd, b"/dev", follow=False)
        for name in self.names:
            clone = _clone_device(name)
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666, dir_fd=dev))
            sys.move_mount(clone, dev, name.encode())
            os.close(clone)
        for name, target in (
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ):
            os.symlink(target, name, dir_fd=dev)
        os.close(dev)


@dataclass(frozen=True)
class Mask:
    """A kernel file or directory that shows nothing."""

    target: str
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        return f"mask {self.target}"

    def execute(self, root: Root) -> None:
        """Cover it with the null device, or an empty read-only directory, if it is there."""
        place = _open_if_there(root, self.target)
        if place is None:
            return
        if stat.S_ISDIR(os.fstat(place).st_mode):
            cover = mounts.new_filesystem(
                b"tmpfs", [(b"size", b"4k"), (b"mode", b"555")], QUIET | sys.MOUNT_ATTR_RDONLY
            )
        else:
            cover = _clone_device("null")
        sys.move_mount(cover, place)
        os.close(cover)
        os.close(place)


@dataclass(frozen=True)
class ReadOnly:
    """A kernel file or directory that cannot be written."""

    target: str
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        return f"read-only {self.target}"

    def execute(self, root: Root) -> None:
        """Cover it with a read-only clone of itself, if it is there."""
        place = _open_if_there(root, self.target)
        if place is None:
            return
        recurse = sys.AT_EMPTY_PATH | sys.AT_RECURSIVE
        clone = sys.open_tree(place, b"", sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | recurse)
        sys.mount_setattr(clone, b"", recurse, sys.MOUNT_ATTR_RDONLY | QUIET)
        sys.move_mount(clone, place)
        os.close(clone)
        os.close(place)


def _clone_device(name: str) -> int:
    fd = sys.open_tree(
        sys.AT_FDCWD, b"/dev/" + name.encode(), sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC
    )
    if name == "null" and not mounts.is_null_device(fd):
        raise OSError(errno.ENODEV, "is not the null device", b"/dev/null")
    return fd


def _open_if_there(root: Root, target: str) -> int | None:
    try:
        return mounts.open_in_root(root.fd, os.fsencode(target), follow=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
