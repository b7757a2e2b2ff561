"""The files of an archive, or of an OCI image layout's directory, by name.

An archive is read once, for where its files begin; nothing of it is ever put on the disk under a
name of its own. A directory is somebody's who may be hostile too: no symbolic link in it is
followed, and only regular files are read.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from ..errors import InvalidArchive, InvalidLayer
from ..linux import syscalls as sys
from ..store import tar

_MAX_ENTRIES = 100_000
_MAX_NAME_BYTES = 1024
_MOST_LINKS = 4  # Docker's lead from a layer to the same one elsewhere, and no further
_PIECE_BYTES = 2**20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_BENEATH = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS


class Members(Protocol):
    """Files by name; one that is not there, or is no regular file, raises InvalidArchive."""

    def has(self, name: str) -> bool:
        """Tell whether there is a regular file of this name."""

    def real(self, name: str) -> str:
        """Return the name under which the file itself is there, where ``name`` is a link's."""

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a file's content, in pieces of at most 1 MiB."""


class _Place(NamedTuple):
    """Where a file's content is in the archive."""

    offset: int
    size: int


class ArchiveMembers:
    """The files of the uncompressed tar archive ``fd``, which stays the caller's.

    Raises InvalidArchive for one that is damaged, or can be read in two ways.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._files: dict[str, _Place] = {}
        self._links: dict[str, str] = {}
        try:
            self._read()
        except InvalidLayer as error:
            raise InvalidArchive(f"this cannot be read as images: {error}") from error

    def has(self, name: str) -> bool:
        """Tell whether there is a regular file of this name, or a link to one."""
        return self._find(name) in self._files

    def real(self, name: str) -> str:
        """Return the name of the file that a link leads to."""
        found = self._find(name)
        if found not in self._files:
            raise _missing(name)
        return found

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return self._files[self.real(name)].size

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a file's content."""
        offset, left = self._files[self.real(name)]
        while left:
            piece = os.pread(self._fd, min(left, _PIECE_BYTES), offset)
            if not piece:
                raise InvalidArchive("the archive became shorter while it was read: try again")
            yield piece
            offset, left = offset + len(piece), left - len(piece)

    def _read(self) -> None:
        stream = _Seeking(self._fd)
        for entry in tar.entries(stream, _MAX_ENTRIES):
            if max(len(entry.name), len(entry.link)) > _MAX_NAME_BYTES:
                raise InvalidArchive(
                    f"the archive is refused: a name in it is longer than {_MAX_NAME_BYTES} bytes"
                )
            name = os.fsdecode(entry.name).removeprefix("./")
            if entry.kind not in (tar.FILE, tar.SYMLINK, tar.HARD_LINK):
                continue
            if name in self._files or name in self._links:
                raise InvalidArchive(f"the archive is refused: it has {name[-80:]!r} twice")
            if entry.kind == tar.FILE:
                self._files[name] = _Place(stream.offset, entry.size)
            else:
                base = posixpath.dirname(name) if entry.kind == tar.SYMLINK else ""
                self._links[name] = posixpath.normpath(
                    posixpath.join(base, os.fsdecode(entry.link))
                )

    def _find(self, name: str) -> str:
        for _ in range(_MOST_LINKS):
            if name not in self._links:
                return name
            name = self._links[name]
        raise InvalidArchive(f"the archive is refused: links lead from {name[-80:]!r} to links")


class DirectoryMembers:
    """The files below the directory ``fd``, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def has(self, name: str) -> bool:
        """Tell whether there is a regular file of this name."""
        try:
            with self._opened(name):
                return True
        except InvalidArchive:
            return False

    def real(self, name: str) -> str:
        """Return the same name: links are not followed."""
        return name

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        with self._opened(name) as fd:
            return os.fstat(fd).st_size

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a file's content."""
        with self._opened(name) as fd:
            while piece := os.read(fd, _PIECE_BYTES):
                yield piece

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        try:
            fd = sys.openat2(self._fd, os.fsencode(name), _FILE, resolve=_BENEATH)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise
            raise _missing(name) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _missing(name)
            yield fd
        finally:
            os.close(fd)


class _Seeking(tar.Stream):
    """The bytes of a file, of which those that nobody wants are not read."""

    def __init__(self, fd: int) -> None:
        super().__init__(())
        self._fd, self._size = fd, os.fstat(fd).st_size

    def read(self, count: int) -> bytes:
        """Return exactly ``count`` bytes, or none at all at the end. Raises InvalidLayer."""
        data = os.pread(self._fd, count, self.offset)
        if data and len(data) < count:
            raise InvalidLayer("the archive ends in the middle of an entry")
        self.offset += len(data)
        return data

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes. Raises InvalidLayer where there are fewer."""
        if self.offset + count > self._size:
            raise InvalidLayer("the archive ends in the middle of a file")
        self.offset += count

    def pieces_until_end(self, count: int) -> Iterator[memoryview]:
        """Pass over ``count`` bytes, or as many as there still are; they are not read."""
        self.offset = min(self.offset + count, self._size)
        yield from ()


def _missing(name: str) -> InvalidArchive:
    return InvalidArchive(f"the archive is refused: it has no regular file {name[-100:]!r}")
