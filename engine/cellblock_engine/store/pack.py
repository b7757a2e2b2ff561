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

from ..errors import Conflict, InvalidLayer
from ..linux import syscalls as sys
from . import pax, tar
from .directories import MAX_PATH_BYTES, is_opaque, is_whiteout
from .unpack import OPAQUE_MARKER, WHITEOUT_PREFIX, is_kept

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BENEATH = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS
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
    walk = _Walk(root, frozenset(without))
    while walk.directories:
        yield from walk.directory(walk.directories.pop())
    yield pax.END


class _Walk:
    """The tree as far as it is packed; ``directories`` are those to come, the next one last."""

    def __init__(self, root: int, without: frozenset[bytes]) -> None:
        self._root, self._without = root, without
        self._first: dict[tuple[int, int], bytes] = {}  # names of files that have several
        self._privileged = os.geteuid() == 0
        self.directories = [b""]

    def directory(self, path: bytes) -> Iterator[bytes]:
        """Yield a directory's entry, then all in it but directories."""
        fd = self._open(path)
        try:
            names = sorted(map(os.fsencode, os.listdir(fd)))  # noqa: PTH208 - of a descriptor
            if not names and path in self._without:
                return
            status = os.fstat(fd)
            # A container's root has the time of its own upper, whatever a layer says.
            mtime_ns = status.st_mtime_ns if path else 0
            entry = self._entry(path + b"/" if path else b"./", tar.DIRECTORY, status)
            yield pax.encode(entry._replace(mtime_ns=mtime_ns, xattrs=_xattrs(fd)))
            above = path + b"/" if path else b""
            opaque = bool(path) and is_opaque(fd)
            if opaque:
                yield pax.encode(_marker(above + OPAQUE_MARKER))
            below = []
            for name in names:
                inside = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if is_whiteout(inside):
                    if not opaque:  # where there is nothing to hide
                        yield pax.encode(_marker(above + WHITEOUT_PREFIX + name))
                    continue
                if name.startswith(WHITEOUT_PREFIX):
                    raise _refused(above + name, "names that begin with .wh. mean removals there")
                if stat.S_ISDIR(inside.st_mode):
                    below.append(above + name)
                elif not (above + name in self._without and _is_empty_file(inside)):
                    yield from self._other(fd, name, above + name, inside)
            self.directories += reversed(below)
        finally:
            os.close(fd)

    def _open(self, path: bytes) -> int:
        if len(path) > MAX_PATH_BYTES:
            raise _refused(path, "its path is too long")
        return sys.openat2(self._root, path or b".", _DIRECTORY, resolve=_BENEATH)

    def _other(self, fd: int, name: bytes, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        """Yield what is no directory."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            return
        if status.st_nlink > 1:
            first = self._first.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                yield pax.encode(self._entry(path, tar.HARD_LINK, status)._replace(link=first))
                return
        if kind == stat.S_IFREG:
            yield from self._file(fd, name, path)
        elif kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=fd)
            yield pax.encode(self._entry(path, tar.SYMLINK, status)._replace(link=target))
        else:
            entry = self._entry(path, _SPECIAL[kind], status)
            if kind != stat.S_IFIFO:
                device = os.major(status.st_rdev), os.minor(status.st_rdev)
                entry = entry._replace(device=device)
            yield pax.encode(entry)

    def _file(self, directory: int, name: bytes, path: bytes) -> Iterator[bytes]:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _changed(path)
            entry = self._entry(path, tar.FILE, status)
            yield pax.encode(entry._replace(size=status.st_size, xattrs=_xattrs(fd)))
            left = status.st_size
            while left:
                piece = os.read(fd, min(left, _PIECE_BYTES))
                if not piece:
                    raise _changed(path)
                left -= len(piece)
                yield piece
            yield pax.padding(status.st_size)
        finally:
            os.close(fd)

    def _entry(self, name: bytes, kind: bytes, status: os.stat_result) -> tar.Entry:
        uid, gid = (status.st_uid, status.st_gid) if self._privileged else (0, 0)
        mode = stat.S_IMODE(status.st_mode)
        return tar.Entry(name, kind, 0, mode, uid, gid, status.st_mtime_ns, b"", (0, 0), {})


def _marker(name: bytes) -> tar.Entry:
    return tar.Entry(name, tar.FILE, 0, 0, 0, 0, 0, b"", (0, 0), {})


def _is_empty_file(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and not status.st_size


def _xattrs(fd: int) -> dict[bytes, bytes]:
    try:
        keys = os.listxattr(fd)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    return {os.fsencode(key): os.getxattr(fd, key) for key in keys if is_kept(os.fsencode(key))}


def _refused(path: bytes, why: str) -> InvalidLayer:
    return InvalidLayer(f"{os.fsdecode(path[-80:])!r} cannot be put in a layer: {why}")


def _changed(path: bytes) -> Conflict:
    return Conflict(f"{os.fsdecode(path[-80:])!r} changed while it was read: try again")
