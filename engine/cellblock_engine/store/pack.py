"""A layer's directory, in overlayfs form, becomes an archive: the reverse of :mod:`.unpack`.

The same tree gives the same bytes: entries come in one order, what a file system cannot say
again is left out, and so the digest of a layer that was unpacked from such an archive can be
found again by packing it. No archive is written anywhere; who wants its digest reads it.

Directories are opened beneath the tree's own descriptor and through no symbolic link, files with
O_NOFOLLOW in them: what a container made of its files leads nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

from ..errors import Conflict, InvalidLayer
from . import beneath, pax, tar
from .directories import MAX_PATH_BYTES, is_opaque, is_whiteout
from .unpack import OPAQUE_MARKER, WHITEOUT_PREFIX, is_kept

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 2**20
_SPECIAL = {
    stat.S_IFIFO: tar.FIFO,
    stat.S_IFCHR: tar.CHARACTER,  # of layers that root has pulled; a container cannot make any
    stat.S_IFBLK: tar.BLOCK_DEVICE,
}


def pack(root: int, *, without: Collection[bytes] = ()) -> Iterator[bytes]:
    """Yield the archive of the directory ``root``, in pieces of at most 1 MiB.

    Of ``without``, paths without a leading slash, empty files and directories are left out;
    sockets always are, as archives have none. Without privileges all belongs to user 0, as it
    does in a container of one id. Raises InvalidLayer for what a layer cannot hold, Conflict for
    a file that changes meanwhile, OSError.
    """
    without = frozenset(without)
    first: dict[tuple[int, int], bytes] = {}  # names of files that have several
    opaque = False
    for place in _places(root):
        status, path = place.status, place.path
        if stat.S_ISSOCK(status.st_mode) or (path in without and _is_empty(place)):
            continue
        if stat.S_ISDIR(status.st_mode):
            opaque = bool(path) and is_opaque(place.directory)
            yield from _directory(place, opaque=opaque)
        elif is_whiteout(status):
            if not opaque:  # where there is nothing to hide
                head, slash, name = path.rpartition(b"/")
                yield pax.encode(_marker(head + slash + WHITEOUT_PREFIX + name))
        elif place.name.startswith(WHITEOUT_PREFIX):
            raise _refused(path, "names that begin with .wh. mean removals there")
        elif status.st_nlink > 1 and path != (
            target := first.setdefault((status.st_dev, status.st_ino), path)
        ):
            yield pax.encode(_entry(path, tar.HARD_LINK, status)._replace(link=target))
        else:
            yield from _other(place)
    yield pax.END


def data_bytes(root: int) -> int:
    """Return how much the files in the directory ``root`` hold, holes counted as data."""
    sizes = {
        (place.status.st_dev, place.status.st_ino): place.status.st_size
        for place in _places(root)
        if stat.S_ISREG(place.status.st_mode)
    }
    return sum(sizes.values())


def kept_xattrs(fd: int) -> dict[bytes, bytes]:
    """Return the attributes of a file or directory that a container may see."""
    try:
        keys = os.listxattr(fd)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    return {os.fsencode(key): os.getxattr(fd, key) for key in keys if is_kept(os.fsencode(key))}


class _Place(NamedTuple):
    """One name in the tree; ``directory`` is the descriptor of what it is in, or is itself."""

    directory: int
    name: bytes
    path: bytes
    status: os.stat_result


def _places(root: int) -> Iterator[_Place]:
    """Yield each directory, then all that is in it but directories, then those."""
    directories = [b""]
    while directories:
        path = directories.pop()
        fd = beneath.open_directory(root, path)
        try:
            yield _Place(fd, b"", path, os.fstat(fd))
            above = path + b"/" if path else b""
            below = []
            for name in sorted(map(os.fsencode, os.listdir(fd))):  # noqa: PTH208 - no path
                if len(above) + len(name) > MAX_PATH_BYTES:
                    raise _refused(above + name, "its path is too long")
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    below.append(above + name)
                else:
                    yield _Place(fd, name, above + name, status)
            directories += reversed(below)
        finally:
            os.close(fd)


def _directory(place: _Place, *, opaque: bool) -> Iterator[bytes]:
    above = place.path + b"/" if place.path else b""
    entry = _entry(above or b"./", tar.DIRECTORY, place.status)
    if not place.path:
        # A container's root has the time of its own upper, whatever a layer says.
        entry = entry._replace(mtime_ns=0)
    yield pax.encode(entry._replace(xattrs=kept_xattrs(place.directory)))
    if opaque:
        yield pax.encode(_marker(above + OPAQUE_MARKER))


def _other(place: _Place) -> Iterator[bytes]:
    """Yield what is no directory."""
    kind = stat.S_IFMT(place.status.st_mode)
    if kind == stat.S_IFREG:
        yield from _file(place)
    elif kind == stat.S_IFLNK:
        target = os.readlink(place.name, dir_fd=place.directory)
        yield pax.encode(_entry(place.path, tar.SYMLINK, place.status)._replace(link=target))
    else:
        device = place.status.st_rdev  # 0 for a FIFO
        entry = _entry(place.path, _SPECIAL[kind], place.status)
        yield pax.encode(entry._replace(device=(os.major(device), os.minor(device))))


def _file(place: _Place) -> Iterator[bytes]:
    fd = os.open(place.name, _FILE, dir_fd=place.directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _changed(place.path)
        entry = _entry(place.path, tar.FILE, status)
        yield pax.encode(entry._replace(size=status.st_size, xattrs=kept_xattrs(fd)))
        left = status.st_size
        while left:
            piece = os.read(fd, min(left, _PIECE_BYTES))
            if not piece:
                raise _changed(place.path)
            left -= len(piece)
            yield piece
        yield pax.padding(status.st_size)
    finally:
        os.close(fd)


def _entry(name: bytes, kind: bytes, status: os.stat_result) -> tar.Entry:
    uid, gid = (status.st_uid, status.st_gid) if os.geteuid() == 0 else (0, 0)
    mode = stat.S_IMODE(status.st_mode)
    return tar.Entry(name, kind, 0, mode, uid, gid, status.st_mtime_ns, b"", (0, 0), {})


def _marker(name: bytes) -> tar.Entry:
    return tar.Entry(name, tar.FILE, 0, 0, 0, 0, 0, b"", (0, 0), {})


def _is_empty(place: _Place) -> bool:
    if stat.S_ISDIR(place.status.st_mode):
        return not os.listdir(place.directory)  # noqa: PTH208 - no path
    return stat.S_ISREG(place.status.st_mode) and not place.status.st_size


def _refused(path: bytes, why: str) -> InvalidLayer:
    return InvalidLayer(f"{os.fsdecode(path[-80:])!r} cannot be put in a layer: {why}")


def _changed(path: bytes) -> Conflict:
    return Conflict(f"{os.fsdecode(path[-80:])!r} changed while it was read: try again")
