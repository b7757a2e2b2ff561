"""The mounts of a container as data, and their execution in its mount namespace.

:func:`plan` turns a start into a list of operations. Each names the host paths it clones
(``sources``), says what it does (``describe``) and does it (``execute``). Whoever may open the
sources does: the monitor where it is root (an idmapped clone needs that), else init itself.
:func:`attachments` is what comes last, when it can be known who the command runs as.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..linux import mounts
from ..linux import syscalls as sys
from .spec import FileSpec, StartSpec

# Where the staging tree is attached in init's own mount namespace: any directory that every
# user can reach and that no source lies under any more (sources are opened before).
_STAGING_PLACES = (b"/tmp", b"/mnt", b"/run", b"/var")

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
_SCRATCH = b"scratch"
_INODES_WITHOUT_SIZE = 65536
_FEWEST_INODES = 1024
_BYTES_PER_INODE = 4096
_QUIET = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True)
class Source:
    """A host path to be cloned. ``idmap`` "preferred" does without where it cannot be had.

    With "caller" the caller's own files are the command's; other people's are nobody's.
    """

    path: str
    idmap: Literal["required", "preferred", "caller"]
    writable: bool = False

    def open(self, userns_fd: int | None) -> int:
        """Return the detached clone; ``userns_fd`` is None where ids need no mapping."""
        path = os.fsencode(self.path)
        attributes = sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOSUID
        if not self.writable:
            attributes |= sys.MOUNT_ATTR_RDONLY
        if self.idmap == "caller" and userns_fd is not None:
            return self._open_for_caller(path, attributes, userns_fd)
        recursive = userns_fd is None
        try:
            return mounts.clone_tree(
                path, recursive=recursive, attributes=attributes, userns_fd=userns_fd
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
        return mounts.clone_tree(path, recursive=False, attributes=attributes, userns_fd=None)


class Root:
    """The root being built: its descriptor, and the clones that stand ready in plan order."""

    def __init__(self, clones: Sequence[int]) -> None:
        self._clones = list(reversed(clones))
        self._staged = 0
        self.fd = -1

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

    def execute(self, root: Root) -> None:  # noqa: ARG002 - the protocol's
        """Make it in the staging tree."""
        options = [
            (b"mode", b"700"),
            (b"size", b"%d" % self.size_bytes),
            (b"nr_inodes", b"%d" % inode_bound(self.size_bytes)),
        ]
        fd = mounts.new_filesystem(b"tmpfs", options)
        os.mkdir(_SCRATCH)
        sys.move_mount(fd, sys.AT_FDCWD, _SCRATCH)
        os.close(fd)
        try:
            os.setxattr(_SCRATCH, "user.cellblock", b"")
        except OSError as error:
            # Without, overlayfs could not tell replaced directories from merged ones.
            raise OSError(error.errno, "tmpfs keeps no user attributes (Linux 6.6 does)") from error


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
        _attach_outside_kernel_trees(root, clone, place, target)


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
        fd = mounts.new_filesystem(b"tmpfs", options, _QUIET)
        target = os.fsencode(self.target)
        _attach_outside_kernel_trees(root, fd, mounts.ensure_directory(root.fd, target), target)


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


@dataclass(frozen=True)
class Files:
    """Small files of the container's own, in a file system in memory; they can be written."""

    files: tuple[FileSpec, ...]
    sources = ()

    def describe(self) -> str:
        """Return the step in one line."""
        return f"files {' '.join(file.target for file in self.files)}"

    def execute(self, root: Root) -> None:
        """Make them in one file system of the staging tree and attach a clone of each."""
        tree = mounts.new_filesystem(b"tmpfs", [(b"mode", b"755"), (b"size", b"256k")], _QUIET)
        os.mkdir(b"files")
        sys.move_mount(tree, sys.AT_FDCWD, b"files")
        for number, file in enumerate(self.files):
            name = b"files/%d" % number
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
            os.write(fd, file.text.encode("utf-8", "surrogateescape"))
            os.close(fd)
            clone = sys.open_tree(sys.AT_FDCWD, name, sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC)
            place = mounts.ensure_file(root.fd, os.fsencode(file.target))
            sys.move_mount(clone, place)
            os.close(place)
            os.close(clone)
        os.close(tree)


@dataclass(frozen=True)
class FileSystem:
    """A new file system of the kernel's, at a place that must be a true directory."""

    target: str
    fstype: str
    options: tuple[tuple[str, str | None], ...] = ()
    attributes: int = _QUIET

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
                b"tmpfs", [(b"size", b"4k"), (b"mode", b"555")], _QUIET | sys.MOUNT_ATTR_RDONLY
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
        sys.mount_setattr(clone, b"", recurse, sys.MOUNT_ATTR_RDONLY | _QUIET)
        sys.move_mount(clone, place)
        os.close(clone)
        os.close(place)


def plan(spec: StartSpec) -> tuple[Operation, ...]:
    """Return the steps that build the container's root, in order."""
    single_id = spec.id_ranges is None
    pts: list[tuple[str, str | None]] = [
        ("newinstance", None),
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("max", "1024"),
    ]
    if not single_id:
        pts.append(("gid", "5"))
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
        operations.append(FileSystem("/sys", "sysfs", attributes=_QUIET | sys.MOUNT_ATTR_RDONLY))
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
    return tuple(operations)


def inode_bound(size_bytes: int | None) -> int:
    """Return how many files a tmpfs of this size may hold.

    Without -m an inode's kernel memory (about 1 KiB) is charged to nobody: empty files count
    against no size.
    """
    if size_bytes is None:
        return _INODES_WITHOUT_SIZE
    return max(_FEWEST_INODES, size_bytes // _BYTES_PER_INODE)


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
    places = (*(tree.target for tree in spec.overlays), *(file.target for file in spec.files))
    sealed = tuple(place for place in places if place not in covered)
    return (*asked, Seal(sealed, spec.process.cwd))


def sources(operations: Sequence[Operation]) -> list[Source]:
    """Return every host path the plan clones, in the order of its steps."""
    return [source for operation in operations for source in operation.sources]


def detach_from_host() -> None:
    """Keep this mount namespace's mounts to itself. Raises OSError."""
    sys.mount(None, b"/", None, sys.MS_REC | sys.MS_PRIVATE, None)


def build(operations: Sequence[Operation], clones: Sequence[int]) -> None:
    """Build the root from the plan and move into it; the host's tree is gone afterwards.

    Runs in the container's own mount namespace. Raises OSError, whose filename is the place.
    """
    staging = mounts.new_filesystem(b"tmpfs", [(b"mode", b"700")])
    sys.move_mount(staging, sys.AT_FDCWD, _staging_place())
    os.fchdir(staging)
    _execute(operations, Root(clones))
    os.chdir(b"root")
    sys.pivot_root(b".", b".")
    sys.umount2(b".", sys.MNT_DETACH)
    os.chdir(b"/")


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


def _attach_outside_kernel_trees(root: Root, mount_fd: int, place: int, target: bytes) -> None:
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


def _upper_in_memory(top: bytes) -> bytes:
    """Make an upper over the layer ``top``, with its attributes; return its parent's name."""
    parent = _SCRATCH + b"/" + top
    status = os.stat(top)
    for name, mode in ((b"", 0o755), (b"/fs", stat.S_IMODE(status.st_mode)), (b"/work", 0o700)):
        os.mkdir(parent + name)
        os.chmod(parent + name, mode)
    os.chown(parent + b"/fs", status.st_uid, status.st_gid)
    return parent


def _device(root: Root, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=root.fd, follow_symlinks=False).st_dev
    except FileNotFoundError:
        return None


def _layer_idmap(target: str) -> Literal["required", "preferred"]:
    return "required" if target == "/" else "preferred"


def _staging_place() -> bytes:
    for place in _STAGING_PLACES:
        if os.path.isdir(place) and not os.path.islink(place):
            return place
    raise FileNotFoundError(errno.ENOENT, "no directory to build in", _STAGING_PLACES[0])


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
