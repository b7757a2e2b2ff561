"""A container becomes an image: what was written in it is one layer more.

Commits of one container stack: each builds on the one before, and tells what has changed since.
One that runs stands still for as long as its files are looked at, not while they are packed. The
container stays as it is: its files are copied, never moved, and never linked, as later writes
would change the layer. Its own settings do not go in: the image is run as the one that it was
made from.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain

from .assembly import mount_places
from .container import Container
from .errors import Conflict, ImageNotFound, InvalidInput, Unsupported
from .image import Image
from .log import Log
from .oci.config import HistoryEntry
from .oci.digest import Digest
from .oci.instructions import parse_changes
from .oci.manifest import MAX_LAYERS, OCI_LAYER, Descriptor
from .oci.reference import Reference
from .provenance import completed
from .request import CommitRequest
from .store import Store, commitnote, marks, pax
from .store.commitnote import CommitNote, CommittedImage
from .store.containers import ContainerConfig, upper
from .store.epoch import clamped
from .store.exclusion import Exclusion
from .store.locks import Kind, locked
from .store.marks import Delta, Marks
from .store.pack import Content, Place, archive, data_bytes, entries, read
from .store.spool import Spool
from .store.tar import Entry
from .store.touched import Lowers

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = "commit.lock"
_TURN_S = 60.0
_log = Log(__name__)


@dataclass(frozen=True)
class Commit(Image):
    """The image that was made of a container, and what that took.

    ``added`` is the layer it has above its base, None where nothing had changed;
    ``added_bytes`` is the size of its archive. For ``paused_s`` seconds the container stood
    still, 0 where it did not run.
    """

    added: Digest | None
    added_bytes: int
    paused_s: float


def commit(
    store: Store,
    container: Container,
    config: ContainerConfig,
    reference: Reference | None,
    request: CommitRequest,
) -> Commit:
    """Add the image that the container's files make of its image; return it.

    Without a reference it is held by its digest, under its base's name. Raises Conflict for a
    container that does not hold still, Unsupported for one of the host image, whose files are in
    memory, or that cannot be paused, ImageNotFound where its image is gone, StoreFull,
    StoreError; then there is no image.
    """
    if config.image_id is None:
        raise Unsupported(
            f"container {config.name} cannot become an image: its files are this machine's own; "
            "use a container of a pulled image"
        )
    if config.storage_bytes is not None:
        raise Unsupported(
            f"container {config.name} cannot become an image: what it writes is in memory; use a "
            "container without --storage"
        )
    alone = locked(
        container.directory / _LOCK,
        Kind.EXCLUSIVE,
        timeout_s=_TURN_S,
        what=f"container {config.name}, which is being committed,",
    )
    with alone, store.referencing():
        name = reference or _name(store, config)
        changes = parse_changes(request.changes)
        ground = _ground(store, container, config, squash=request.squash)
        store.images.check_changes(ground.manifest, changes)
        written = _layer(store, container, config, ground, request)
        provenance = completed(
            request.provenance,
            store,
            base=written.ground.manifest,
            called=config.image,
            below=written.ground.layers,
            layer=written.layer.digest if written.layer else None,
        )
        step = HistoryEntry(
            created=_moment(request.epoch_s),
            created_by=request.created_by or provenance.in_short or shlex.join(config.argv),
            author=request.author,
            comment=request.comment,
            empty_layer=written.layer is None,
        )
        image = store.images.derive(
            written.ground.manifest, written.layer, step, name, changes, provenance=provenance
        )
        _note(store, container, image, written.marks)
    _log.info("committed container %s: %s", config.name, image.id)
    layer, paused_s = written.layer, written.paused_s
    if layer is None:
        return Commit(**vars(image), added=None, added_bytes=0, paused_s=paused_s)
    return Commit(**vars(image), added=layer.digest, added_bytes=layer.size, paused_s=paused_s)


@dataclass(frozen=True)
class _Ground:
    """What a commit builds on: an image, and the marks of what is in it of the container."""

    manifest: Digest
    layers: tuple[Digest, ...]
    marks: Marks | None = None


@dataclass(frozen=True)
class _Written:
    """What was written in a container since its ground was made, as a layer if that is anything.

    ``paused_s`` is for how long it stood still.
    """

    layer: Descriptor | None
    ground: _Ground
    marks: Marks
    paused_s: float


def _ground(
    store: Store, container: Container, config: ContainerConfig, *, squash: bool
) -> _Ground:
    """Return the container's last commit if that is in the store, else its own image."""
    note = None if squash else commitnote.read(container.directory)
    manifest = None if note is None else _manifest(store, note.image)
    if note is None or manifest is None:
        return _own_ground(store, config)
    if len(note.image.layers) >= MAX_LAYERS:
        raise Conflict(
            f"container {config.name} was committed so often that its image has {MAX_LAYERS} "
            "layers, as many as a kernel can stack: commit it with --squash"
        )
    return _Ground(manifest, note.image.layers, note.marks)


def _own_ground(store: Store, config: ContainerConfig) -> _Ground:
    """Return the image that the container was made from."""
    return _Ground(_base(store, config), tuple(map(Digest.parse, config.layers)))


def _manifest(store: Store, image: CommittedImage) -> Digest | None:
    """Return a manifest of an image, None where not all of it is in the store any more."""
    if not all(map(store.layers.has, image.layers)):
        return None
    try:  # since a push it may have another, with packed layers
        return store.images.resolve(str(image.id)).manifest
    except ImageNotFound:
        return image.manifest if all(map(store.blobs.has, (image.manifest, image.id))) else None


def _layer(
    store: Store,
    container: Container,
    config: ContainerConfig,
    ground: _Ground,
    request: CommitRequest,
) -> _Written:
    """Return what was written since ``ground``, or, where that cannot be said, altogether."""
    excluded = Exclusion(request.exclude, defaults=request.default_excludes)
    with ExitStack() as stack:
        paused_s = 0.0
        without = mount_places(config)
        wanted = _wanted(ground)
        running = container.runs()
        if running:
            root = _root(container, stack)
            spool = Spool(stack.enter_context(store.spool()), store.blobs.check_room)
            store.blobs.check_room(data_bytes(root, excluded, wanted=wanted))
            settled_ns = spool.fill(root, excluded, wanted=wanted)
            begun = time.monotonic()
            with container.standing_still():
                now = marks.take(root, without=without)
                news = _news(store, config, ground, now, excluded)
                seen = list(news.entries(root, spool.contents, without, excluded))
            paused_s = time.monotonic() - begun
            described = spool.read(seen)
        else:
            stack.enter_context(container.at_rest())
            root = _root(container, stack)
            store.blobs.check_room(data_bytes(root, excluded, wanted=wanted))
            now = marks.take(root, without=without)
            news = _news(store, config, ground, now, excluded)
            described = news.entries(root, read, without, excluded)
        if request.epoch_s is not None:
            described = clamped(described, request.epoch_s, root)
        layer = _packed(store, news, described, excluded)
        if not running:
            settled_ns = marks.await_settling(now)
    told = excluded.told(news.image, news.ground.marks or {})
    return _Written(layer, news.ground, marks.settled(told, settled_ns), paused_s)


@dataclass(frozen=True)
class _News:
    """What an image is to have of a container, as marks; and above its ground, if that is less."""

    ground: _Ground
    image: Marks
    delta: Delta | None

    def entries(
        self,
        root: int,
        contents: Callable[[bytes, int, os.stat_result], Iterator[Content]],
        without: Collection[bytes],
        excluded: Exclusion,
    ) -> Iterator[Entry | Content]:
        """Yield what a layer is to tell of the tree ``root``, as :func:`.pack.entries` does."""
        among = excluded.among(self.image)
        return entries(root, contents, without=without, excluded=among, delta=self.delta)


def _news(
    store: Store, config: ContainerConfig, ground: _Ground, now: Marks, excluded: Exclusion
) -> _News:
    with Lowers(store.layers.chain(ground.layers)) as lowers:
        image = excluded.image_of(now, ground.marks or {}, lowers.shows)
    if ground.marks is None:
        return _News(ground, image, None)
    delta = marks.since(ground.marks, image)
    if delta is None:
        return _news(store, config, _own_ground(store, config), now, excluded)
    return _News(ground, image, delta)


def _packed(
    store: Store, news: _News, described: Iterable[Entry | bytes], excluded: Exclusion
) -> Descriptor | None:
    """Return the layer that is ``described``, None if nothing but touched directories is."""
    known = () if news.delta is None else news.delta.unchanged
    with Lowers(store.layers.chain(news.ground.layers)) as lowers:
        kept = excluded.applied(described, lowers.shows)
        pieces = archive(lowers.changes(kept, known))
        start = next(pieces)
        if start == pax.END:
            return None
        diffid, size_bytes = store.layers.make(chain((start,), pieces))
    return Descriptor(OCI_LAYER, diffid, size_bytes)


def _wanted(ground: _Ground) -> Callable[[Place], bool]:
    """Return what tells the files that the ground does not have as they are."""
    known = ground.marks
    if known is None:
        return lambda _place: True
    return lambda place: known.get(place.path) != marks.mark_of(place)


def _note(store: Store, container: Container, image: Image, now: Marks) -> None:
    """Let the next commit build on this one; where there is no room, on the one before."""
    made = CommittedImage(image.id, image.manifest, image.layers)
    try:
        commitnote.write(store.staging, container.directory, CommitNote(made, now))
    except OSError as error:
        _log.info("the commit of container %s is not noted: %s", container.name, error)


def _moment(epoch_s: int | None) -> datetime:
    return datetime.now(UTC) if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)


def _base(store: Store, config: ContainerConfig) -> Digest:
    """Return the manifest of the container's image."""
    if config.manifest and store.blobs.has(manifest := Digest.parse(config.manifest)):
        return manifest
    try:  # containers of older versions do not say
        return store.images.resolve(str(config.image_id)).manifest
    except ImageNotFound:
        raise ImageNotFound(
            f"the image that container {config.name} was made from ({config.image}) is not in "
            "the store any more: pull it again"
        ) from None


def _name(store: Store, config: ContainerConfig) -> Reference:
    """Return a name of the container's image, without tag and digest."""
    try:
        first = store.images.resolve(str(config.image_id)).references[0]
    except ImageNotFound:
        raise InvalidInput(
            f"the image that container {config.name} was made from ({config.image}) has lost its "
            "name: give one to the new image"
        ) from None
    return replace(first, tag=None, digest=None)


def _root(container: Container, stack: ExitStack) -> int:
    """Return a descriptor of what was written in it."""
    fd = os.open(upper(container.directory, 0) / "fs", _DIRECTORY)
    stack.callback(os.close, fd)
    return fd
