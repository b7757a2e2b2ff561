"""A layer is made of entries and open files: copied, and hashed as the archive that they make.

What is on disk then, and the diffID, are those of that archive, unpacked; but it is nowhere, and no
other process takes part: the files are a container's, which has been unpacked or made here, and not
an archive of somebody else's making.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Full, Queue
from types import TracebackType
from typing import NamedTuple

from ..errors import InvalidLayer, StoreError
from ..linux import syscalls as sys
from . import beneath, pax, tar
from .pack import changed
from .room import raise_if_full
from .unpack import CREATE, LayerTree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES = 2**20
_GATHERED_BYTES = 2**18
_QUEUED = 16
_LOOK_S = 1.0  # after whether the other thread lives


class Source(NamedTuple):
    """The content of the file ``path``: ``size`` bytes of ``fd``, from ``offset`` on.

    Of a ``moving`` file what is missing is zeros, as nobody will keep that copy. It begins with
    ``head``, in place of as many bytes.
    """

    path: bytes
    fd: int
    offset: int
    size: int
    moving: bool
    head: bytes = b""


class Adopted(NamedTuple):
    """The content of the file ``path`` of another layer that is given up, attributes and all."""

    tree: int
    path: bytes


def opened(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source]:
    """Yield the whole content of a file that stands still, as :func:`.pack.entries` asks for it."""
    yield Source(path, fd, 0, status.st_size, moving=False)


class LayerCopy(LayerTree):
    """A layer on its way into the store, as a context manager: see :meth:`.Layers.copying`."""

    def __init__(self, directory: Path, *, max_entries: int) -> None:
        self.directory = directory
        self._max_entries = max_entries
        (directory / "fs").mkdir(mode=0o700)
        self.root = os.open(directory / "fs", _DIRECTORY)
        super().__init__(self.root)
        self._hash = _Hash()
        self._content: Source | Adopted | None = None
        self._from: tuple[bytes, int] | None = None

    def __enter__(self) -> LayerCopy:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._hash.end()
        self._leave()
        self.close()
        os.close(self.root)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not self._entries

    def fill(self, described: Iterable[tar.Entry | Source | Adopted]) -> None:
        """Add what is described, the contents of a file after its entry.

        Raises what ``described`` raises, Conflict, InvalidLayer, StoreFull, StoreError.
        """
        waiting: tar.Entry | None = None
        for each in described:
            if isinstance(each, tar.Entry):
                if waiting is not None:
                    self._put(waiting)
                waiting = each
            else:
                assert waiting is not None
                self._content = each
                self._put(waiting)
                waiting = self._content = None
        if waiting is not None:
            self._put(waiting)

    def finish_copy(self) -> tuple[str, int]:
        """Describe the layer; return its archive's SHA-256 in hexadecimal, and size in bytes.

        Raises StoreFull, StoreError, OSError.
        """
        unpacked = self.finish()
        self._hash.update(pax.END)
        try:
            with (self.directory / "layer.json").open("x", encoding="utf-8") as file:
                json.dump(unpacked.record(), file)
        except OSError as error:
            raise_if_full(error, "a layer in the store")
            raise
        return self._hash.hexdigest(), self._hash.size_bytes

    def sync(self) -> None:
        """Have all of it on the disk. Raises OSError."""
        sys.syncfs(self.root)

    def create_file(self, entry: tar.Entry, fd: int, name: bytes) -> None:
        """Make a file of the content that was given for it. Raises Conflict, OSError."""
        content = self._content
        if isinstance(content, Adopted):
            self._adopt(content, entry, fd, name)
            return
        file = os.open(name, CREATE, 0o600, dir_fd=fd)
        try:
            if content is not None:
                for piece in _pieces(content):
                    self._hash.update(piece)
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[os.write(file, rest) :]
            self.apply(file, entry, entry.name)
        finally:
            os.close(file)

    def _put(self, entry: tar.Entry) -> None:
        if self._entries >= self._max_entries:
            raise InvalidLayer(f"the layer would have more than {self._max_entries} entries")
        self._hash.update(pax.encode(entry))
        self.add(entry)
        if entry.size:
            self._hash.update(pax.padding(entry.size))

    def _adopt(self, content: Adopted, entry: tar.Entry, fd: int, name: bytes) -> None:
        head, _, old = content.path.rpartition(b"/")
        if self._from is None or self._from[0] != head:
            self._leave()
            self._from = head, beneath.open_directory(content.tree, head)
        os.rename(old, name, src_dir_fd=self._from[1], dst_dir_fd=fd)
        if entry.size:
            file = os.open(name, _READ, dir_fd=fd)
            try:
                for piece in _pieces(Source(content.path, file, 0, entry.size, moving=False)):
                    self._hash.update(piece)
            finally:
                os.close(file)

    def _leave(self) -> None:
        if self._from is not None:
            os.close(self._from[1])
            self._from = None


class _Hash:
    """The SHA-256 of an archive, made in a thread beside that of its maker."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._queue: Queue[list[bytes] | None] = Queue(_QUEUED)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ended = False

    def update(self, piece: bytes) -> None:
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes >= _GATHERED_BYTES:
            self._pass_on()

    def hexdigest(self) -> str:
        self._pass_on()
        self.end()
        return self._digest.hexdigest()

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._thread.is_alive():
                self._queue.put(None)
            self._thread.join()

    def _pass_on(self) -> None:
        while True:
            try:
                self._queue.put(self._waiting, timeout=_LOOK_S)
                break
            except Full:
                if not self._thread.is_alive():
                    raise StoreError("a layer cannot be hashed: try again") from None
        self.size_bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0

    def _run(self) -> None:
        while (pieces := self._queue.get()) is not None:
            self._digest.update(b"".join(pieces) if len(pieces) > 1 else pieces[0])


def _pieces(source: Source) -> Iterator[bytes]:
    if source.head:
        yield source.head
    offset, left = source.offset + len(source.head), source.size - len(source.head)
    while left:
        piece = os.pread(source.fd, min(left, _PIECE_BYTES), offset)
        if not piece:
            if not source.moving:
                raise changed(source.path)
            piece = bytes(min(left, _PIECE_BYTES))
        offset, left = offset + len(piece), left - len(piece)
        yield piece
