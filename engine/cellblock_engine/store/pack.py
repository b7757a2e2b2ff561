"""A layer's directory, in overlayfs form, becomes an archive: the reverse of :mod:`.unpack`.

First it becomes entries, with the contents of files between them, then bytes: what is written to
meanwhile must stand still for the entries alone (:mod:`.spool`). The same tree gives the same
bytes: entries come in one order, what a file system cannot say again is left out, and so the
digest of a layer that was unpacked from such an archive can be found again by packing it.

Directories are opened beneath the tree's own descriptor and through no symbolic link, files with
O_NOFOLLOW in them: what a container made of its files leads nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..errors import Conflict, InvalidLayer
from . import beneath, owners, pax, tar, unreadable
from .directories import MAX_PATH_BYTES, WHITEOUT, is_opaque, is_whiteout
from .unpack import OPAQUE_MARKER, WHITEOUT_PREFIX, is_kept

if TYPE_CHECKING:
    from .marks import Delta

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES = 2**20
_SPECIAL = {
    stat.S_IFIFO: tar.FIFO,
    stat.S_IFCHR: tar.CHARACTER,  # of layers that root has pulled; a container cannot make any
    stat.S_IFBLK: tar.BLOCK_DEVICE,
}
_ABSENCE = os.stat_result((stat.S_IFCHR, *[0] * 9), {"st_rdev": WHITEOUT})
_NONE: Mapping[bytes, Collection[bytes]] = MappingProxyType({})

ROOT = b"./"
"""What an archive calls the directory that it is of."""


nothing: Callable[[bytes], bool] = lambda _path: False  # noqa: E731 - a name for a default
Content = TypeVar("Content")


def pack(root: int) -> Iterator[bytes]:
    """Yield the archive of the directory ``root``, in pieces of at most 1 MiB.

    Raises as :func:`entries` says.
    """
    return archive(entries(root, read))


def entries(
    root: int,
    contents: Callable[[bytes, int, os.stat_result], Iterator[Content]],
    *,
    without: Collection[bytes] = (),
    excluded: Callable[[bytes], bool] = nothing,
    absent: Collection[bytes] = (),
    delta: Delta | None = None,
    moving: bool = False,
) -> Iterator[tar.Entry | Content]:
    """Yield what is in the directory ``root``, a regular file's ``contents`` after its entry.

    With a ``delta`` that is what it tells of, and all directories. Of ``without``, paths without
    a leading slash, empty files and directories are left out, and files that are ``excluded``: not
    removals, nor directories that may have some in them (:meth:`.exclusion.Exclusion.applied`).
    Files that are ``absent`` are told of as removals. Sockets are left out, as archives have none.
    Who owns what is as :mod:`.owners` says. Raises InvalidLayer for what a layer cannot hold,
    Conflict for a file that changes meanwhile, OSError; in a ``moving`` tree, what goes away is
    left out.
    """
    without = frozenset(without)
    first: dict[tuple[int, int], bytes] = {}  # names of files that have several
    opaque = False
    gone = _NONE if delta is None else delta.gone
    for place in places(root, excluded, absent=absent, gone=gone, moving=moving):
        status, path = place.status, place.path
        if is_left_out(place, without):
            continue
        if stat.S_ISDIR(status.st_mode):
            if delta is None:
                opaque = bool(path) and is_opaque(place.directory)
            else:
                opaque = path in delta.emptied
            yield from _directory(place, opaque=opaque)
        elif delta is not None and path not in delta.told:
            continue
        elif is_whiteout(status):
            if not opaque:  # where there is nothing to hide
                head, slash, name = path.rpartition(b"/")
                yield _marker(head + slash + WHITEOUT_PREFIX + name)
        elif place.name.startswith(WHITEOUT_PREFIX):
            raise _refused(path, "names that begin with .wh. mean removals there")
        elif status.st_nlink > 1 and path != (
            target := first.setdefault((status.st_dev, status.st_ino), path)
        ):
            yield link(place, target)
        else:
            yield from described(place, contents, moving=moving)


def described(
    place: Place,
    contents: Callable[[bytes, int, os.stat_result], Iterator[Content]],
    *,
    moving: bool = False,
) -> Iterator[tar.Entry | Content]:
    """Yield the entry of what is there, and a regular file's ``contents``. Raises OSError."""
    if stat.S_ISDIR(place.status.st_mode):
        yield from _directory(place, opaque=False)
    elif stat.S_ISREG(place.status.st_mode):
        yield from _file(place, contents, moving=moving)
    else:
        yield from _other(place, moving=moving)


def link(place: Place, target: bytes) -> tar.Entry:
    """Return the entry of one more name of a file that was told of as ``target``."""
    owner = owners.of_name(place.status, place.name, place.directory)
    return _entry(place.path, tar.HARD_LINK, place.status, owner)._replace(link=target)


def archive(described: Iterable[tar.Entry | bytes]) -> Iterator[bytes]:
    """Yield the archive that entries and their contents make."""
    data_bytes = 0
    for each in described:
        if isinstance(each, bytes):
            data_bytes += len(each)
            yield each
        else:
            yield pax.padding(data_bytes) + pax.encode(each)
            data_bytes = 0
    yield pax.padding(data_bytes) + pax.END


def read(path: bytes, fd: int, status: os.stat_result) -> Iterator[bytes]:
    """Yield the content of a file of this status, in pieces. Raises Conflict, OSError."""
    left = status.st_size
    while left:
        piece = os.read(fd, min(left, _PIECE_BYTES))
        if not piece:
            raise changed(path)
        left -= len(piece)
        yield piece


def is_left_out(place: Place, without: Collection[bytes]) -> bool:
    """Return whether a layer has nothing of what is there: sockets, and what mounts needed."""
    return stat.S_ISSOCK(place.status.st_mode) or (place.path in without and _is_empty(place))


class Place(NamedTuple):
    """One name in the tree; ``directory`` is the descriptor of what it is in, or is itself."""

    directory: int
    name: bytes
    path: bytes
    status: os.stat_result


def places(
    root: int,
    excluded: Callable[[bytes], bool],
    *,
    absent: Collection[bytes] = (),
    gone: Mapping[bytes, Collection[bytes]] = _NONE,
    moving: bool = False,
) -> Iterator[Place]:
    """Yield each directory, then all that is in it but directories, then those.

    ``excluded`` is asked of paths, and for a directory with all that is in it of the path with a
    slash: then one that hides what lower layers have there is as a whiteout. So are files whose
    paths are ``absent``, and names that are ``gone`` from a directory. In a ``moving`` tree, what
    goes away meanwhile is left out.
    """
    directories = [b""]
    while directories:
        path = directories.pop()
        try:
            fd = beneath.open_directory(root, path)
        except OSError as error:
            if not moving or error.errno not in beneath.GONE:
                raise
            continue
        try:
            yield Place(fd, b"", path, os.fstat(fd))
            above = path + b"/" if path else b""
            below = []
            removed = gone.get(path, ())
            names = map(os.fsencode, os.listdir(fd))  # noqa: PTH208 - no path
            for name in sorted({*names, *removed}):
                if len(above) + len(name) > MAX_PATH_BYTES:
                    raise _refused(above + name, "its path is too long")
                if name in removed or above + name in absent:
                    yield Place(fd, name, above + name, _ABSENCE)
                    continue
                status = _status(fd, name, moving=moving)
                if status is None:
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    if is_whiteout(status) or not excluded(above + name):
                        yield Place(fd, name, above + name, status)
                elif excluded(above + name + b"/") and _hides(fd, name):
                    yield Place(fd, name, above + name, _ABSENCE)
                else:
                    below.append(above + name)
            directories += reversed(below)
        finally:
            os.close(fd)


def open_file(place: Place) -> tuple[int, os.stat_result]:
    """Return a descriptor of the regular file there, and its status. Raises Conflict, OSError."""
    try:
        fd = os.open(place.name, _FILE, dir_fd=place.directory)
    except PermissionError:
        fd, status = unreadable.opened(place.name, place.directory)
    else:
        status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise changed(place.path)
    return fd, status


def kept_xattrs(fd: int) -> dict[bytes, bytes]:
    """Return the extended attributes that a layer keeps."""
    try:
        keys = os.listxattr(fd)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    found: dict[bytes, bytes] = {}
    for key in filter(is_kept, map(os.fsencode, keys)):
        try:
            found[key] = os.getxattr(fd, key)
        except OSError as error:
            if error.errno != errno.ENODATA:  # of one that a container has removed just now
                raise
    return found


def changed(path: bytes) -> Conflict:
    """Return the error for a file that does not hold still."""
    return Conflict(f"{os.fsdecode(path[-80:])!r} changed while it was read: try again")


def _directory(place: Place, *, opaque: bool) -> Iterator[tar.Entry]:
    above = place.path + b"/" if place.path else b""
    owner = owners.of(place.status, place.directory)
    entry = _entry(above or ROOT, tar.DIRECTORY, place.status, owner)
    if not place.path:
        # A container's root has the time of its own upper, whatever a layer says.
        entry = entry._replace(mtime_ns=0)
    yield entry._replace(xattrs=kept_xattrs(place.directory))
    if opaque:
        yield _marker(above + OPAQUE_MARKER)


def _other(place: Place, *, moving: bool) -> Iterator[tar.Entry]:
    """Yield what is neither a directory nor a regular file."""
    kind = stat.S_IFMT(place.status.st_mode)
    owner = owners.of_name(place.status, place.name, place.directory)
    if kind == stat.S_IFLNK:
        try:
            target = os.readlink(place.name, dir_fd=place.directory)
        except OSError:
            if moving:
                return
            raise
        yield _entry(place.path, tar.SYMLINK, place.status, owner)._replace(link=target)
        return
    device = place.status.st_rdev  # 0 for a FIFO
    entry = _entry(place.path, _SPECIAL[kind], place.status, owner)
    yield entry._replace(device=(os.major(device), os.minor(device)))


def _file(
    place: Place,
    contents: Callable[[bytes, int, os.stat_result], Iterator[Content]],
    *,
    moving: bool,
) -> Iterator[tar.Entry | Content]:
    if moving and not unreadable.is_readable(place.status):
        return  # not while it may be changed: see open_file
    try:
        fd, status = open_file(place)
    except (OSError, Conflict):
        if moving:
            return  # it has another file by now, or none
        raise
    try:
        entry = _entry(place.path, tar.FILE, status, owners.of(status, fd))
        yield entry._replace(size=status.st_size, xattrs=kept_xattrs(fd))
        yield from contents(place.path, fd, status)
    finally:
        os.close(fd)


def _entry(
    name: bytes,
    kind: bytes,
    status: os.stat_result,
    owner: tuple[int, int],
) -> tar.Entry:
    mode = stat.S_IMODE(status.st_mode)
    times = status.st_mtime_ns
    return tar.Entry(name, kind, 0, mode, *owner, times, b"", (0, 0), {})


def _marker(name: bytes) -> tar.Entry:
    return tar.Entry(name, tar.FILE, 0, 0, 0, 0, 0, b"", (0, 0), {})


def _status(directory: int, name: bytes, *, moving: bool) -> os.stat_result | None:
    """Return the status of a name, None for one that may go away and has."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        if not moving:
            raise
        return None


def _hides(directory: int, name: bytes) -> bool:
    """Tell whether the directory ``name``, if it is still there, hides what lower layers have."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError as error:
        if error.errno not in beneath.GONE:
            raise
        return False
    try:
        return is_opaque(fd)
    finally:
        os.close(fd)


def _is_empty(place: Place) -> bool:
    if stat.S_ISDIR(place.status.st_mode):
        return not os.listdir(place.directory)  # noqa: PTH208 - no path
    return stat.S_ISREG(place.status.st_mode) and not place.status.st_size


def _refused(path: bytes, why: str) -> InvalidLayer:
    return InvalidLayer(f"{os.fsdecode(path[-80:])!r} cannot be put in a layer: {why}")
