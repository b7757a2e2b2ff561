"""What was written in a container, altogether or since an image was made of it, becomes a layer.

Of one that has ended, files are copied and hashed in one go. One that runs is copied while it does;
then it stands still for as long as all its files are looked at. If none has changed meanwhile, as
mostly, what was copied is the layer. Else another is made, which takes over the copies that are
right.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .assembly import mount_places
from .container import Container
from .imagerequest import CommitRequest
from .linux import syscalls as sys
from .oci.digest import Digest
from .oci.manifest import OCI_LAYER, Descriptor
from .store import Store, marks
from .store.containers import ContainerConfig, upper
from .store.copying import Adopted, LayerCopy, Source, opened
from .store.epoch import clamped
from .store.exclusion import Exclusion
from .store.marks import Delta, Mark, Marks
from .store.pack import Content, entries
from .store.spool import Spool
from .store.tar import Entry
from .store.touched import Lowers

_MOST_GROWN_BYTES = 256 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Ground:
    """What a commit builds on: an image, and the marks of what is in it of the container.

    Without marks that is nothing.
    """

    manifest: Digest
    layers: tuple[Digest, ...]
    marks: Marks | None = None


@dataclass(frozen=True)
class Written:
    """A layer above a ground, None where nothing was written, and the marks of what is in both.

    For ``paused_s`` seconds the container stood still.
    """

    layer: Descriptor | None
    ground: Ground
    marks: Marks
    paused_s: float


def written(
    store: Store,
    container: Container,
    config: ContainerConfig,
    grounds: tuple[Ground, ...],
    request: CommitRequest,
) -> Written:
    """Return what was written since the first of ``grounds``; the last has no marks.

    That, or one in between, is built on where it cannot be said what was written since those
    before. Raises Conflict, ContainerNotFound, Unsupported, InvalidLayer, StoreFull, StoreError.
    """
    with ExitStack() as stack:
        work = _Work(store, grounds, mount_places(config), request, stack)
        if container.runs():
            return work.of_running(container)
        stack.enter_context(container.at_rest())
        return work.of_ended(container)


@dataclass(frozen=True)
class _News:
    """What an image is to have of a container, as marks; ``delta`` is what that is since ground.

    Without one, that is all. ``absent`` are files in whose place it is to have nothing.
    """

    ground: Ground
    image: Marks
    delta: Delta | None
    absent: Collection[bytes]


class _Work:
    """One commit's layer; what it holds open is on ``stack``."""

    def __init__(
        self,
        store: Store,
        grounds: tuple[Ground, ...],
        without: Collection[bytes],
        request: CommitRequest,
        stack: ExitStack,
    ) -> None:
        self._store, self._grounds, self._without = store, grounds, without
        self._excluded = Exclusion(request.exclude, defaults=request.default_excludes)
        self._epoch_s = request.epoch_s
        self._stack = stack

    def of_ended(self, container: Container) -> Written:
        root = self._open(container)
        now = marks.take(root, without=self._without)
        news = self._news(now)
        self._store.blobs.check_room(marks.data_bytes(news.image, news.delta))
        with self._store.layers.copying() as copy:
            self._fill(copy, news, self._entries(root, opened, news), root)
            layer = self._kept(copy)
        return self._written(news, layer, marks.await_settling(now))

    def of_running(self, container: Container) -> Written:
        root = self._open(container)
        settled_ns = 0 if _is_in_memory(root) else time.time_ns() - marks.CLOCK_NS
        with _syncing(root):
            early = marks.take(root, without=self._without, moving=True)
        news = self._news(early)
        self._store.blobs.check_room(marks.data_bytes(news.image, news.delta))
        copied: dict[bytes, Mark] = {}
        grown_bytes = 0

        def copying(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source]:
            nonlocal grown_bytes
            known = early.get(path)
            grown_bytes += max(0, status.st_size - (known.size if known else 0))
            if grown_bytes > _MOST_GROWN_BYTES:
                return  # there may be no room for it; it is copied again in any case
            copied[path] = marks.of_status(status)
            yield Source(path, fd, 0, status.st_size, moving=True)

        with self._store.layers.copying() as copy:
            self._fill(copy, news, self._entries(root, copying, news, moving=True), root)
            again = None
            begun = time.monotonic()
            with container.standing_still():
                now = marks.take(root, without=self._without)
                before, news = news, news if now == early else self._news(now)
                if news.image != before.image or self._may_differ(news, copied, settled_ns):
                    held = self._holding(copy, copied, settled_ns)
                    again = list(self._entries(root, held, news))
            paused_s = time.monotonic() - begun
            if again is None:
                layer = self._kept(copy)
            else:
                with self._store.layers.copying() as other:
                    self._fill(other, news, iter(again), root)
                    layer = self._kept(other)
        return self._written(news, layer, settled_ns, paused_s)

    def _open(self, container: Container) -> int:
        """Return a descriptor of what was written in it."""
        fd = os.open(upper(container.directory, 0) / "fs", _DIRECTORY)
        self._stack.callback(os.close, fd)
        return fd

    def _may_differ(self, news: _News, copied: Marks, settled_ns: int) -> bool:
        """Tell whether what was ``copied`` may be other files than those of the news' marks.

        They may have been written to since ``settled_ns``, or could not be opened.
        """
        if marks.youngest_ns(news.image) >= settled_ns:
            return True
        told = news.image if news.delta is None else news.image.keys() & news.delta.told
        files = {mark.inode for path in told if (mark := news.image[path]).is_file}
        return not files <= {mark.inode for mark in copied.values()}

    def _news(self, now: Marks) -> _News:
        """Return what is to be in the image, above the first ground that can be built on."""
        for ground in self._grounds:
            old = ground.marks or {}
            with Lowers(self._store.layers.chain(ground.layers)) as lowers:
                image = self._excluded.image_of(now, old, lowers.kind)
            delta = None if ground.marks is None else marks.since(ground.marks, image)
            if delta is not None or ground.marks is None:
                break
        return _News(ground, image, delta, self._excluded.replaced(image, now))

    def _entries(
        self,
        root: int,
        contents: Callable[[bytes, int, os.stat_result], Iterator[Content]],
        news: _News,
        *,
        moving: bool = False,
    ) -> Iterator[Entry | Content]:
        return entries(
            root,
            contents,
            without=self._without,
            excluded=self._excluded.among(news.image),
            absent=news.absent,
            delta=news.delta,
            moving=moving,
        )

    def _fill(
        self,
        copy: LayerCopy,
        news: _News,
        described: Iterator[Entry | Source | Adopted],
        root: int,
    ) -> None:
        known = () if news.delta is None else news.delta.unchanged
        if self._epoch_s is not None:
            described = clamped(described, self._epoch_s, root)
        with Lowers(self._store.layers.chain(news.ground.layers)) as lowers:
            copy.fill(lowers.changes(self._excluded.applied(described, lowers.shows), known))

    def _kept(self, copy: LayerCopy) -> Descriptor | None:
        """Add the layer to the store, unless nothing is in it."""
        if copy.is_empty:
            return None
        diffid, size_bytes = self._store.layers.keep(copy)
        return Descriptor(OCI_LAYER, diffid, size_bytes)

    def _written(
        self, news: _News, layer: Descriptor | None, settled_ns: int, paused_s: float = 0.0
    ) -> Written:
        told = self._excluded.told(news.image, news.ground.marks or {})
        return Written(layer, news.ground, marks.settled(told, settled_ns), paused_s)

    def _holding(
        self, copy: LayerCopy, copied: Marks, settled_ns: int
    ) -> Callable[[bytes, int, os.stat_result], Iterator[Source | Adopted]]:
        """Return what copies contents, but those that ``copy`` has as they are."""
        spool = Spool(self._stack.enter_context(self._store.spool()), self._store.blobs.check_room)

        def held(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source | Adopted]:
            mark = marks.of_status(status)
            rewritten = self._epoch_s is not None and path.endswith(b".pyc")  # for its source
            if mark.ctime_ns < settled_ns and copied.get(path) == mark and not rewritten:
                yield Adopted(copy.root, path)
            else:
                yield spool.append(path, fd, status.st_size)

        return held


def _is_in_memory(root: int) -> bool:
    """Return whether pages of its file system never become clean: see :func:`_syncing`."""
    device = os.fstat(root).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as mounts:
        for mount in map(str.split, mounts):
            if mount[2] == number:
                return mount[mount.index("-") + 1] in ("tmpfs", "ramfs")
    return False


@contextmanager
def _syncing(root: int) -> Iterator[None]:
    """Write out the file system of ``root`` beside the block; at its end that is done.

    Pages that are written to by memory mappings: only the first write to a clean one shows in the
    file's times.
    """

    def sync() -> None:
        with suppress(OSError):  # of the disk, which who writes to it is told
            sys.syncfs(root)

    thread = threading.Thread(target=sync, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
