"""A container becomes an image: what was written in it is one layer more.

One that runs stands still for as long as its files are looked at, not while they are packed. The
container stays as it is: its files are copied, never moved, and never linked, as later writes
would change the layer. Its own settings do not go in: the image is run as the one that it was
made from.
"""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain

from .assembly import mount_places
from .container import Container
from .errors import ImageNotFound, InvalidInput, Unsupported
from .image import Image
from .log import Log
from .oci.config import HistoryEntry
from .oci.digest import Digest
from .oci.instructions import parse_changes
from .oci.manifest import OCI_LAYER, Descriptor
from .oci.reference import Reference
from .request import CommitRequest
from .store import Store, pax
from .store.containers import ContainerConfig, upper
from .store.epoch import clamped
from .store.exclusion import Exclusion
from .store.pack import archive, data_bytes, entries, read
from .store.spool import Spool
from .store.touched import Lowers

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
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
    with store.referencing():
        base = _base(store, config)
        name = reference or _name(store, config)
        changes = parse_changes(request.changes)
        store.images.check_changes(base, changes)
        layer, paused_s = _layer(store, container, config, request)
        step = HistoryEntry(
            created=_moment(request.epoch_s),
            created_by=request.created_by or shlex.join(config.argv),
            author=request.author,
            comment=request.comment,
            empty_layer=layer is None,
        )
        image = store.images.derive(base, layer, step, name, changes)
    _log.info("committed container %s: %s", config.name, image.id)
    if layer is None:
        return Commit(**vars(image), added=None, added_bytes=0, paused_s=paused_s)
    return Commit(**vars(image), added=layer.digest, added_bytes=layer.size, paused_s=paused_s)


def _layer(
    store: Store, container: Container, config: ContainerConfig, request: CommitRequest
) -> tuple[Descriptor | None, float]:
    """Return what was written as a layer, if anything was, and for how long it stood still."""
    below = store.layers.chain(list(map(Digest.parse, config.layers)))
    excluded = Exclusion(request.exclude, defaults=request.default_excludes)
    with Lowers(below) as lowers, ExitStack() as stack:
        paused_s = 0.0
        without = mount_places(config)
        if container.runs():
            root = _root(container, stack)
            spool = Spool(stack.enter_context(store.spool()), store.blobs.check_room)
            store.blobs.check_room(data_bytes(root, excluded))
            spool.fill(root, excluded)
            begun = time.monotonic()
            with container.standing_still():
                seen = list(entries(root, spool.contents, without=without, excluded=excluded))
            paused_s = time.monotonic() - begun
            described = spool.read(seen)
        else:
            stack.enter_context(container.at_rest())
            root = _root(container, stack)
            store.blobs.check_room(data_bytes(root, excluded))
            described = entries(root, read, without=without, excluded=excluded)
        described = excluded.applied(described, lowers.shows)
        if request.epoch_s is not None:
            described = clamped(described, request.epoch_s, root)
        pieces = archive(lowers.changes(described))
        start = next(pieces)
        if start == pax.END:
            return None, paused_s
        diffid, size_bytes = store.layers.make(chain((start,), pieces))
    return Descriptor(OCI_LAYER, diffid, size_bytes), paused_s


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
