"""The mounts of a container as data, and their execution in its mount namespace.

:func:`plan` turns a start into a list of operations. Each names the host paths it clones
(``sources``), says what it does (``describe``) and does it (``execute``). Whoever may open the
sources does: the monitor where it is root (an idmapped clone needs that), else init itself.
:func:`attachments` is what comes last, when it can be known who the command runs as.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Literal

from ..linux import mounts
from ..linux import syscalls as sys
from . import figures
from .root.attached import Bind, Files, Seal
from .root.building import Operation, Root, Source
from .root.kernel_trees import MASKED, READ_ONLY, Devices, FileSystem, Mask, ReadOnly
from .root.memory import Memory, inode_bound
from .root.overlays import Overlay, Scratch
from .root.places import QUIET
from .root.told import Figures, Groups
from .spec import StartSpec

# Where the staging tree is attached in init's own mount namespace: any directory that every
# user can reach and that no source lies under any more (sources are opened before).
_STAGING_PLACES = (b"/tmp", b"/mnt", b"/run", b"/var")
_TTY = 5  # the group of terminals, in all distributions


def plan(spec: StartSpec, groups: Mapping[str, str]) -> tuple[Operation, ...]:
    """Return the steps that build the container's root, in order.

    ``groups`` are its control groups' directories by their places below /sys/fs/cgroup.
    """
    pts: list[tuple[str, str | None]] = [
        ("newinstance", None),
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("max", "1024"),
    ]
    if spec.ids.groups > _TTY:
        pts.append(("gid", str(_TTY)))
    operations: list[Operation] = [
        Overlay(
            tree.target,
            tuple(Source(low, _layer_idmap(tree.target)) for low in tree.lowers),
            None if spec.storage_bytes else Source(tree.upper, "required", writable=True),
        )
        for tree in spec.overlays
    ]
    if spec.storage_bytes:
        operations.insert(0, Scratch(spec.storage_bytes))
    operations.append(FileSystem("/proc", "proc"))
    if spec.own_network:
        operations.append(FileSystem("/sys", "sysfs", attributes=QUIET | sys.MOUNT_ATTR_RDONLY))
    operations += [
        FileSystem(
            "/dev",
            "tmpfs",
            (("mode", "755"), ("size", "64k"), ("nr_inodes", "1024")),
            sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NOEXEC,
        ),
        Devices(),
        FileSystem("/dev/pts", "devpts", tuple(pts), sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NOEXEC),
        FileSystem(
            "/dev/shm",  # noqa: S108
            "tmpfs",
            (
                ("mode", "1777"),
                ("size", str(spec.shm_bytes)),
                ("nr_inodes", str(inode_bound(spec.shm_bytes))),
            ),
        ),
        FileSystem("/dev/mqueue", "mqueue"),
    ]
    operations.append(Files(spec.files))
    operations += [Mask(path) for path in MASKED]
    operations += [ReadOnly(path) for path in READ_ONLY]
    limits = spec.told(spec.limits)
    if told := figures.places(limits, has_sys=spec.own_network):
        operations.append(Figures(told, limits))
    if groups and spec.own_network:
        operations.append(Groups(tuple(groups.items())))
    return tuple(operations)


def attachments(spec: StartSpec) -> tuple[Operation, ...]:
    """Return the steps that complete the root once it is the root: what the caller asked for.

    Outer places come before those inside them.
    """
    asked: list[Bind | Memory] = [
        *(
            Bind(bind.target, Source(bind.source, "caller", writable=bind.writable))
            for bind in spec.binds
        ),
        *(Memory(each.target, each.size_bytes, each.mode) for each in spec.tmpfs),
    ]
    asked.sort(key=lambda operation: operation.target.count("/"))
    if not spec.read_only:
        return tuple(asked)
    covered = {operation.target for operation in asked}
    files = (file.target for file in spec.files if not file.optional)
    places = (*(tree.target for tree in spec.overlays), *files)
    sealed = tuple(place for place in places if place not in covered)
    return (*asked, Seal(sealed, spec.process.cwd))


def sources(operations: Sequence[Operation]) -> list[Source]:
    """Return every host path the plan clones, in the order of its steps."""
    return [source for operation in operations for source in operation.sources]


def detach_from_host() -> None:
    """Keep this mount namespace's mounts to itself. Raises OSError."""
    sys.mount(None, b"/", None, sys.MS_REC | sys.MS_PRIVATE, None)


def build(operations: Sequence[Operation], clones: Sequence[int]) -> dict[str, int]:
    """Build the root from the plan and move into it; the host's tree is gone afterwards.

    Runs in the container's own mount namespace. Returns the descriptors that are kept
    (:class:`.root.building.Root`). Raises OSError, whose filename is the place.
    """
    staging = mounts.new_filesystem(b"tmpfs", [(b"mode", b"700")])
    sys.move_mount(staging, sys.AT_FDCWD, _staging_place())
    os.fchdir(staging)
    root = Root(clones)
    _execute(operations, root)
    os.chdir(b"root")
    sys.pivot_root(b".", b".")
    sys.umount2(b".", sys.MNT_DETACH)
    os.chdir(b"/")
    return root.kept


def complete(operations: Sequence[Operation], clones: Sequence[int]) -> None:
    """Do what :func:`attachments` says, in the root that :func:`build` has built."""
    root = Root(clones)
    root.fd = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _execute(operations, root)
    os.close(root.fd)


def _execute(operations: Sequence[Operation], root: Root) -> None:
    for operation in operations:
        try:
            operation.execute(root)
        except OSError as error:
            raise OSError(
                error.errno, f"{operation.describe()}: {error.strerror}", error.filename
            ) from error


def _layer_idmap(target: str) -> Literal["required", "preferred"]:
    return "required" if target == "/" else "preferred"


def _staging_place() -> bytes:
    for place in _STAGING_PLACES:
        if os.path.isdir(place) and not os.path.islink(place):
            return place
    raise FileNotFoundError(errno.ENOENT, "no directory to build in", _STAGING_PLACES[0])
