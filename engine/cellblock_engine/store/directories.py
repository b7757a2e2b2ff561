"""The directories of a tree that is being unpacked, reached by descriptor, never by path.

A path of a layer is resolved here, one component at a time, as if the layer's directory were the
root of the file system: each step opens its component with O_NOFOLLOW below the descriptor of
the one before, symbolic links are read and followed by us, absolute ones start at the root
again, and ``..`` at the root stays there. So nothing a layer names can be outside of it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InvalidLayer
from .trees import remove_at

OPAQUE = "user.overlay.opaque"  # the overlay is mounted with userxattr (kernel: overlayfs.rst)
WHITEOUT = os.makedev(0, 0)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_OPEN = 64
_MAX_LINKS = 40  # MAXSYMLINKS of path_resolution(7)
_MAX_STEPS = 20_000_000  # a layer has a handful a directory; hostile ones would take for ever
_MAX_IMPLIED = 100_000
_MAX_RECORDED_BYTES = 32 * 2**20  # ends in the layer's record, which the engine itself reads
_MAX_DESCRIBED_BYTES = 256 * 2**20  # kept in memory until the end
MAX_PATH_BYTES = 4095  # PATH_MAX without its NUL
MADE = b""  # an obstacle was replaced by a directory; no symbolic link has this target

if TYPE_CHECKING:
    # Called with a directory's descriptor and real path, and the name in it that is no
    # directory; returns the target of a symbolic link to follow, MADE, or None to give up.
    _Obstacle = Callable[[int, bytes, bytes], bytes | None]


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether this is a file that overlayfs takes for the absence of one."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT


def is_opaque(fd: int) -> bool:
    """Tell whether overlayfs takes this directory for one that hides those below it."""
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return False


class Attributes(NamedTuple):
    """What an entry says of its directory; applied last, as unpacking changes times."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]


class Directories:
    """Open directories of one tree by their real path from its root (``b""`` is the root).

    ``described`` has the attributes of each directory made so far, None where an entry below
    implied it. Entries of directories that went away since may remain in it.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._steps = 0
        self._implied = 0
        self._recorded_bytes = self._described_bytes = 0
        self.described: dict[bytes, Attributes | None] = {b"": None}

    def close(self) -> None:
        """Close all descriptors but the root's."""
        while self._open:
            os.close(self._open.popitem()[1])

    def parent(self, path: bytes) -> tuple[int, bytes, bytes]:
        """Return the descriptor and real path of the directory an entry goes to, and its name.

        Directories on the way that are missing, or something else, are made. The descriptor
        stays open until the next call. Raises InvalidLayer.
        """
        head, _, name = path.rpartition(b"/")
        if not head:
            return self._root, b"", name
        fd = self._open.get(head)
        if fd is None:
            found = self._walk(head, self._follow_or_make)
            assert found is not None
            fd, head = found
        return fd, head, name

    def marker_parent(self, path: bytes) -> tuple[int, bytes, bytes] | None:
        """As :meth:`parent`, for a marker about lower layers: it replaces nothing of this one.

        None where something else than a directory hides whatever the marker speaks of.
        """
        head, _, name = path.rpartition(b"/")
        found = self._walk(head, self._follow_or_add)
        return None if found is None else (*found, name)

    def existing_parent(self, path: bytes) -> tuple[int, bytes, bytes] | None:
        """As :meth:`parent`, but make nothing: None where there is no such directory."""
        head, _, name = path.rpartition(b"/")
        found = self._walk(head, self._follow)
        return None if found is None else (*found, name)

    def exact(self, real: bytes) -> int | None:
        """Return the descriptor of the directory at this real path; None if it is not there."""
        found = self._walk(real, self._stay)
        return None if found is None else found[0]

    def make(self, fd: int, real: bytes, name: bytes, attributes: Attributes | None) -> None:
        """Make the directory ``name`` in ``fd`` (at ``real``), or keep the one that is there.

        What else has its name is replaced. In the merged view it then hides a lower directory
        of that name, so the new one is opaque.
        """
        path = real + b"/" + name if real else name
        if len(path) > MAX_PATH_BYTES:
            raise InvalidLayer(f"the layer has a path of more than {MAX_PATH_BYTES} bytes")
        if attributes is None:
            self._implied += 1
            if self._implied > _MAX_IMPLIED:
                raise InvalidLayer(f"the layer implies more than {_MAX_IMPLIED} directories")
            self.record(len(path))
        else:
            xattrs = attributes.xattrs
            self._described_bytes += sum(map(len, (path, *xattrs, *xattrs.values())))
            if self._described_bytes > _MAX_DESCRIBED_BYTES:
                raise InvalidLayer("the layer's directories have too long names and attributes")
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=fd)
                os.mkdir(name, 0o755, dir_fd=fd)
                self.set_opaque(fd, name)
        self.described[path] = attributes

    def record(self, size_bytes: int) -> None:
        """Account for so many bytes of paths in the layer's record. Raises InvalidLayer."""
        self._recorded_bytes += size_bytes
        if self._recorded_bytes > _MAX_RECORDED_BYTES:
            raise InvalidLayer(
                "the layer implies too many directories and links to files of other layers"
            )

    def set_opaque(self, fd: int, name: bytes) -> None:
        """Hide what lower layers have in the directory ``name`` of ``fd`` (``.`` is itself)."""
        directory = os.open(name, _OPEN, dir_fd=fd)
        try:
            if not is_opaque(directory):
                os.setxattr(directory, OPAQUE, b"y")
        finally:
            os.close(directory)

    def remove(self, fd: int, real: bytes, name: bytes) -> None:
        """Remove what is called ``name`` in the directory ``fd`` (at ``real``), if anything."""
        path = real + b"/" + name if real else name
        for open_path in [p for p in self._open if p == path or p.startswith(path + b"/")]:
            os.close(self._open.pop(open_path))
        remove_at(fd, name)

    def _walk(self, path: bytes, at_obstacle: _Obstacle) -> tuple[int, bytes] | None:
        """Open ``path`` from its deepest open ancestor on; return descriptor and real path."""
        real = path
        while real and real not in self._open:
            real = real.rpartition(b"/")[0]
            self._step()
        todo = path[len(real) :].split(b"/")[::-1]
        fd = self._enter(real)
        links = 0
        while todo:
            name = todo.pop()
            self._step()
            if name in (b"", b"."):
                continue
            if name == b"..":
                real = real.rpartition(b"/")[0]
                fd = self._enter_above(fd, real)
                continue
            below = real + b"/" + name if real else name
            inside = self._enter_below(fd, name, below)
            if inside is not None:
                fd, real = inside, below
                continue
            target = at_obstacle(fd, real, name)
            if target is None:
                return None
            if target == MADE:
                todo.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise InvalidLayer(f"the layer has a loop of symbolic links at {path[-60:]!r}")
            if target.startswith(b"/"):
                fd, real = self._root, b""
            todo += target.split(b"/")[::-1]
        return fd, real

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise InvalidLayer("the layer's paths take too long to resolve")

    def _enter(self, real: bytes) -> int:
        """Return the descriptor of a directory that is open, and mark it as used."""
        if not real:
            return self._root
        self._open.move_to_end(real)
        return self._open[real]

    def _enter_below(self, fd: int, name: bytes, below: bytes) -> int | None:
        """Open the directory ``name`` of ``fd``; None if there is none, or something else."""
        if below in self._open:
            return self._enter(below)
        try:
            return self._keep(below, os.open(name, _OPEN, dir_fd=fd))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _enter_above(self, fd: int, real: bytes) -> int:
        if not real or real in self._open:
            return self._enter(real)
        return self._keep(real, os.open(b"..", _OPEN, dir_fd=fd))

    def _keep(self, real: bytes, fd: int) -> int:
        self._open[real] = fd
        if len(self._open) > _MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return fd

    # What a walk does where the next component is not a directory.

    def _stay(self, fd: int, real: bytes, name: bytes) -> None:  # noqa: ARG002 - see _Obstacle
        return None

    def _follow(self, fd: int, real: bytes, name: bytes) -> bytes | None:  # noqa: ARG002
        try:
            return os.readlink(name, dir_fd=fd)
        except OSError:
            return None

    def _follow_or_add(self, fd: int, real: bytes, name: bytes) -> bytes | None:
        try:
            return os.readlink(name, dir_fd=fd)
        except FileNotFoundError:
            self.make(fd, real, name, None)
            return MADE
        except OSError:
            return None

    def _follow_or_make(self, fd: int, real: bytes, name: bytes) -> bytes:
        target = self._follow(fd, real, name)
        if target is None:
            self.make(fd, real, name, None)
            return MADE
        return target
