"""The root that is being built, the host paths it is built from, and what a step of it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ...linux import mounts
from ...linux import syscalls as sys


@dataclass(frozen=True)
class Source:
    """A host path to be cloned. ``idmap`` "preferred" does without where it cannot be had.

    With "caller" the caller's own files are the command's; other people's are nobody's. The
    kernel's own files have none ("never").
    """

    path: str
    idmap: Literal["required", "preferred", "caller", "never"]
    writable: bool = False

    def open(self, userns_fd: int | None) -> int:
        """Return the detached clone; ``userns_fd`` is None where ids need no mapping."""
        path = os.fsencode(self.path)
        attributes = sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOSUID
        if not self.writable:
            attributes |= sys.MOUNT_ATTR_RDONLY
        if self.idmap == "never":
            return mounts.clone_tree(path, recursive=False, attributes=attributes, userns_fd=None)
        if self.idmap == "caller" and userns_fd is not None:
            return self._open_for_caller(path, attributes, userns_fd)
        recursive = userns_fd is None
        # A caller's path was resolved when it was looked at: a link there now was put since.
        resolve = mounts.NO_LINKS if self.idmap == "caller" else 0
        try:
            return mounts.clone_tree(
                path,
                recursive=recursive,
                attributes=attributes,
                userns_fd=userns_fd,
                resolve=resolve,
            )
        except OSError as error:
            if error.errno != errno.EINVAL or userns_fd is None:
                raise
            if self.idmap == "required":
                raise OSError(
                    errno.EOPNOTSUPP,
                    "the file system does not support idmapped mounts (use ext4, xfs, btrfs or "
                    "tmpfs for the store)",
                    path,
                ) from error
        return mounts.clone_tree(path, recursive=True, attributes=attributes, userns_fd=None)

    def _open_for_caller(self, path: bytes, attributes: int, userns_fd: int) -> int:
        try:
            return mounts.clone_mapped(path, attributes=attributes, userns_fd=userns_fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        if self.writable:
            raise OSError(
                errno.EOPNOTSUPP,
                "its file system cannot be shared with the container's ids (ext4, xfs, btrfs and "
                "tmpfs can): bind it read-only, or a folder elsewhere",
                path,
            )
        # What everybody may read can be read all the same.
        return mounts.clone_tree(
            path,
            recursive=False,
            attributes=attributes,
            userns_fd=None,
            resolve=mounts.NO_LINKS,
        )


class Root:
    """The root being built: its descriptor, and the clones that stand ready in plan order.

    ``kept`` are descriptors that the monitor gets, by name: what it asks or changes later.
    """

    def __init__(self, clones: Sequence[int]) -> None:
        self._clones = list(reversed(clones))
        self._staged = 0
        self.fd = -1
        self.kept: dict[str, int] = {}

    def next_clone(self) -> int:
        """Return the next source's detached mount."""
        return self._clones.pop()

    def stage_clone(self) -> bytes:
        """Attach the next source's mount below the working directory; return its name there.

        The overlay refuses layers that are not attached in its own mount namespace (EPERM).
        """
        name = b"%d" % self._staged
        self._staged += 1
        os.mkdir(name)
        clone = self.next_clone()
        sys.move_mount(clone, sys.AT_FDCWD, name)
        os.close(clone)
        return name

    def attach(self, mount_fd: int, target: str, *, follow: bool = True) -> None:
        """Attach a detached mount at the directory ``target``, made if missing."""
        place = mounts.ensure_directory(self.fd, os.fsencode(target), follow=follow)
        try:
            sys.move_mount(mount_fd, place)
        finally:
            os.close(place)
            os.close(mount_fd)


class Operation(Protocol):
    """One step of building a root."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """Host paths to clone, in the order in which ``execute`` takes them."""

    def describe(self) -> str:
        """Return the step in one line."""

    def execute(self, root: Root) -> None:
        """Do it. The working directory is the staging tree. Raises OSError."""
