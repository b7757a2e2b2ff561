"""Where mounts go that a caller asked for: not over the kernel's own files."""

from __future__ import annotations

import errno
import os

from ...linux import syscalls as sys
from .building import Root

QUIET = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOEXEC


def attach_outside_kernel_trees(root: Root, mount_fd: int, place: int, target: bytes) -> None:
    """Attach a mount where the image's links have led, unless that is over the kernel's files."""
    try:
        here, image = os.fstat(place).st_dev, os.fstat(root.fd).st_dev
        for tree in ("proc", "sys"):
            # Without a network of its own a container has no sysfs.
            if here == _device(root, tree) != image:
                raise OSError(errno.EPERM, f"the image's links lead into /{tree}", target)
        sys.move_mount(mount_fd, place)
    finally:
        os.close(place)
        os.close(mount_fd)


def cover_with_file(place: int, name: bytes, attributes: int = 0) -> None:
    """Attach a clone of a file of the staging tree at ``place``, which is closed."""
    clone = sys.open_tree(sys.AT_FDCWD, name, sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC)
    try:
        sys.mount_setattr(clone, b"", sys.AT_EMPTY_PATH, attributes)
        sys.move_mount(clone, place)
    finally:
        os.close(clone)
        os.close(place)


def _device(root: Root, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=root.fd, follow_symlinks=False).st_dev
    except FileNotFoundError:
        return None
