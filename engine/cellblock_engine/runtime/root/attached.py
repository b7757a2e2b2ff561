"""Folders and files that are attached to an image's tree, and the tree sealed below them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from ...linux import mounts
from ...linux import syscalls as sys
from ..spec import FileSpec
from .building import Root, Source
from .places import QUIET, attach_outside_kernel_trees, cover_with_file


@dataclass(frozen=True)
class Bind:
    """A host file or directory."""

    target: str
    source: Source

    @property
    def sources(self) -> tuple[Source, ...]:
        """The one source."""
        return (self.source,)

    def describe(self) -> str:
        """Return the step in one line."""
        mode = "rw" if self.source.writable else "ro"
        return f"bind {self.source.path} on {self.target} ({mode})"

    def execute(self, root: Root) -> None:
        """Attach the clone at a file or directory, made if missing."""
        clone = root.next_clone()
        target = os.fsencode(self.target)
        if stat.S_ISDIR(os.fstat(clone).st_mode):
            place = mounts.ensure_directory(root.fd, target)
        else:
            place = mounts.ensure_file(root.fd, target)
        attach_outside_kernel_trees(root, clone, place, target)


@dataclass(frozen=True)
class Files:
    """Small files of the container's own, in a file system in memory; most can be written."""

    files: tuple[FileSpec, ...]
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        return f"files {' '.join(file.target for file in self.files)}"

    def execute(self, root: Root) -> None:
        """Make them in one file system of the staging tree and attach a clone of each."""
        tree = mounts.new_filesystem(b"tmpfs", [(b"mode", b"755"), (b"size", b"256k")], QUIET)
        os.mkdir(b"files")
        sys.move_mount(tree, sys.AT_FDCWD, b"files")
        for number, file in enumerate(self.files):
            target = os.fsencode(file.target)
            if file.optional and not mounts.is_directory(root.fd, os.path.dirname(target)):
                continue
            name = b"files/%d" % number
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
            os.write(fd, file.text.encode("utf-8", "surrogateescape"))
            os.close(fd)
            attributes = sys.MOUNT_ATTR_RDONLY if file.optional else 0
            cover_with_file(mounts.ensure_file(root.fd, target), name, attributes)
        os.close(tree)


@dataclass(frozen=True)
class Seal:
    """Places that cannot be written from then on; what is attached over them can."""

    targets: tuple[str, ...]
    workdir: str
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        return f"read-only {' '.join(self.targets)}"

    def execute(self, root: Root) -> None:
        """Make the working directory, which nobody could later; then set each mount read-only."""
        os.close(mounts.ensure_directory(root.fd, os.fsencode(self.workdir)))
        for target in self.targets:
            place = mounts.open_in_root(root.fd, os.fsencode(target))
            try:
                sys.mount_setattr(place, b"", sys.AT_EMPTY_PATH, sys.MOUNT_ATTR_RDONLY)
            finally:
                os.close(place)
