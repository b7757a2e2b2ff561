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

from .assembly import mount_places
from .container import Container
from .linux import syscalls as sys
from .oci.digest import Digest
from .oci.manifest import OCI_LAYER, Descriptor
from .store import Store, marks
from .store.containers import ContainerConfig, upper
from .store.copying import Adopted, LayerCopy, Source
from .store.marks import Delta, Mark, Marks
from .store.pack import entries
from .store.spool import Spool
from .store.tar import Entry
from .store.touched import Lowers

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
    store: Store, container: Container, config: ContainerConfig, grounds: tuple[Ground, ...]
) -> Written:
    """Return what was written since the first of ``grounds``; the last has no marks.

    That, or one in between, is built on where it cannot be said what was written since those
    before. Raises Conflict, ContainerNotFound, Unsupported, InvalidLayer, StoreFull, StoreError.
    """
    with ExitStack() as stack:
        work = _Work(store, grounds, mount_places(config), stack)
        if container.runs():
            return work.of_running(container)
        stack.enter_context(container.at_rest())
        return work.of_ended(container)


class _Work:
    """One commit's layer; what it holds open is on ``stack``."""

    def __init__(
        self,
        store: Store,
        grounds: tuple[Ground, ...],
        without: Collection[bytes],
        stack: ExitStack,
    ) -> None:
        self._store, self._grounds, self._without = store, grounds, without
        self._stack = stack

    def of_ended(self, container: Container) -> Written:
        root = self._open(container)
        now = marks.take(root, without=self._without)
        ground, delta = self._compared(now)
        self._store.blobs.check_room(marks.data_bytes(now, delta))
        with self._store.layers.copying() as copy:
            described = entries(root, _opened, without=self._without, delta=delta)
            layer = self._fill(copy, ground, delta, described).keep()
        return Written(layer, ground, marks.settled(now, marks.await_settling(now)), 0.0)

    def of_running(self, container: Container) -> Written:
        root = self._open(container)
        settled_ns = time.time_ns() - marks.CLOCK_NS
        with _syncing(root):
            early = marks.take(root, without=self._without, moving=True)
        ground, delta = self._compared(early)
        self._store.blobs.check_room(marks.data_bytes(early, delta))
        copied: dict[bytes, Mark] = {}

        def copying(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source]:
            copied[path] = marks.of_status(status)
            yield Source(path, fd, 0, status.st_size, moving=True)

        with self._store.layers.copying() as copy:
            described = entries(root, copying, without=self._without, delta=delta, moving=True)
            filled = self._fill(copy, ground, delta, described)
            again = None
            begun = time.monotonic()
            with container.standing_still():
                now = marks.take(root, without=self._without)
                if now != early or marks.youngest_ns(now) >= settled_ns:
                    ground, delta = self._compared(now)
                    held = self._holding(copy, copied, settled_ns)
                    again = list(entries(root, held, without=self._without, delta=delta))
            paused_s = time.monotonic() - begun
            if again is None:
                layer = filled.keep()
            else:
                with self._store.layers.copying() as other:
                    layer = self._fill(other, ground, delta, iter(again)).keep()
        return Written(layer, ground, marks.settled(now, settled_ns), paused_s)

    def _open(self, container: Container) -> int:
        """Return a descriptor of what was written in it."""
        fd = os.open(upper(container.directory, 0) / "fs", _DIRECTORY)
        self._stack.callback(os.close, fd)
        return fd

    def _compared(self, now: Marks) -> tuple[Ground, Delta | None]:
        """Return the first ground that can be built on, and what is news since; None for all."""
        for ground in self._grounds:
            if ground.marks is not None and (delta := marks.since(ground.marks, now)) is not None:
                return ground, delta
        return self._grounds[-1], None

    def _fill(
        self,
        copy: LayerCopy,
        ground: Ground,
        delta: Delta | None,
        described: Iterator[Entry | Source | Adopted],
    ) -> _Filled:
        known = () if delta is None else delta.unchanged
        with Lowers(self._store.layers.chain(ground.layers)) as lowers:
            copy.fill(lowers.changes(described, known))
        return _Filled(self._store, copy)

    def _holding(
        self, copy: LayerCopy, copied: Marks, settled_ns: int
    ) -> Callable[[bytes, int, os.stat_result], Iterator[Source | Adopted]]:
        """Return what copies contents, but those that ``copy`` has as they are."""
        spool = Spool(self._stack.enter_context(self._store.spool()), self._store.blobs.check_room)

        def held(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source | Adopted]:
            mark = marks.of_status(status)
            if mark.ctime_ns < settled_ns and copied.get(path) == mark:
                yield Adopted(copy.root, path)
            else:
                yield spool.append(path, fd, status.st_size)

        return held


@dataclass(frozen=True)
class _Filled:
    store: Store
    copy: LayerCopy

    def keep(self) -> Descriptor | None:
        """Add the layer to the store, unless nothing is in it."""
        if self.copy.is_empty:
            return None
        diffid, size_bytes = self.store.layers.keep(self.copy)
        return Descriptor(OCI_LAYER, diffid, size_bytes)


def _opened(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source]:
    yield Source(path, fd, 0, status.st_size, moving=False)


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
