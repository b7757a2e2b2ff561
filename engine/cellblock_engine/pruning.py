"""What can go: containers that have ended, images that nothing uses; and what a store takes.

What runs keeps what it needs, and so does what is being started or pulled: images are chosen and
removed while nobody makes references. A container that starts meanwhile stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from .container import Container
from .errors import Conflict, ContainerNotFound
from .layout import Layout
from .oci.digest import Digest
from .oci.reference import Reference
from .removal import Removal
from .runtime import state
from .store import Store
from .store.beneath import disk_bytes
from .store.containers import ContainerConfig, Containers
from .store.images import Kept


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be: containers' names, references, ids of images and layers.

    ``freed_bytes`` counts containers as they are on disk, layers unpacked and blobs.
    """

    containers: tuple[str, ...]
    untagged: tuple[Reference, ...]
    deleted: tuple[Digest, ...]
    freed_bytes: int


@dataclass(frozen=True)
class DiskUsage:
    """What one kind of thing takes. Images are their layers and blobs, which have rows as well.

    ``active`` are containers that run, and what containers need; ``reclaimable_bytes`` are what
    pruning all would free. Sizes are as those of :class:`Pruned`.
    """

    kind: Literal["images", "containers", "layers", "blobs"]
    total: int
    active: int
    size_bytes: int
    reclaimable_bytes: int


def prune(
    layout: Layout,
    store: Store,
    held: Callable[[ContainerConfig], Container],
    *,
    containers: bool,
    images: Kept | None,
    keep: Collection[Digest],
    dry_run: bool,
) -> Pruned:
    """Remove ended containers, and then the images that ``images`` does not keep.

    Raises Conflict while the image store is in use, StoreError, OSError.
    """
    ended = tuple(_ended(layout)) if containers else ()
    if dry_run:
        return _would_go(layout, store, ended, images, keep)
    names, freed_bytes = [], 0
    for config in ended:
        size_bytes = disk_bytes(layout.containers / config.id)
        try:
            held(config).remove()
        except (Conflict, ContainerNotFound):
            continue  # it was started, or removed, meanwhile
        names.append(config.name)
        freed_bytes += size_bytes
    if images is None:
        return Pruned(tuple(names), (), (), freed_bytes)
    with store.referencing():
        pass  # and with it there is a store
    removed = store.images.prune(images, keep=keep)
    freed_bytes += removed.freed_bytes
    return Pruned(tuple(names), removed.untagged, removed.deleted, freed_bytes)


def disk_usage(layout: Layout, store: Store, keep: Collection[Digest]) -> tuple[DiskUsage, ...]:
    """Return what images, containers, layers and blobs take. Raises StoreError, OSError."""
    with store.referencing():
        images = store.images.list(nameless=True)
        used = store.images.users()
        unneeded = store.images.unneeded("used", keep=keep).garbage
        held = store.images.holdings()
    configs = tuple(Containers(layout).list())
    sizes = {config.id: disk_bytes(layout.containers / config.id) for config in configs}
    running = sum(_status(layout, config) == "running" for config in configs)
    reclaimable = sum(sizes[config.id] for config in _ended(layout) if config.id in sizes)
    layers, blobs = sum(held.layers.values()), sum(held.blobs.values())
    free_layers, free_blobs = sum(unneeded.layers.values()), sum(unneeded.blobs.values())
    needed_layers = len(held.layers) - len(unneeded.layers)
    needed_blobs = len(held.blobs) - len(unneeded.blobs)
    active = sum(str(image.id) in used for image in images)
    return (
        DiskUsage("images", len(images), active, layers + blobs, free_layers + free_blobs),
        DiskUsage("containers", len(configs), running, sum(sizes.values()), reclaimable),
        DiskUsage("layers", len(held.layers), needed_layers, layers, free_layers),
        DiskUsage("blobs", len(held.blobs), needed_blobs, blobs, free_blobs),
    )


def _would_go(
    layout: Layout,
    store: Store,
    ended: tuple[ContainerConfig, ...],
    images: Kept | None,
    keep: Collection[Digest],
) -> Pruned:
    names = tuple(config.name for config in ended)
    freed_bytes = sum(disk_bytes(layout.containers / config.id) for config in ended)
    if images is None:
        return Pruned(names, (), (), freed_bytes)
    with store.referencing():
        gone = {config.id for config in ended}
        found = store.images.unneeded(images, keep=keep, without=gone)
    deleted = (*found.images, *sorted(found.garbage.layers))
    return Pruned(names, found.names, deleted, freed_bytes + found.garbage.size_bytes)


def _ended(layout: Layout) -> Iterator[ContainerConfig]:
    """Yield the containers that have ended or never began, and that are nobody's to look after.

    Those of kernels are their front end's, which may start them again; throw-away ones go by
    themselves. One without a record is only being made, or swept by the next start.
    """
    for config in Containers(layout).list():
        recorded = state.is_recorded(os.fspath(layout.containers / config.id))
        if config.removal is Removal.NEVER and recorded and _status(layout, config) != "running":
            yield config


def _status(layout: Layout, config: ContainerConfig) -> str:
    return state.read(os.fspath(layout.containers / config.id)).status
