"""Garbage: blobs, layers and chains that no image and no container needs.

A container keeps alive what its ``config.json`` names: ``layers``, diffIDs from the bottom up, and
the image of ``manifest``, even when that has no reference any more.
Garbage is renamed away while the caller holds the store's lock exclusively; freeing it, the slow
part, is for afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidDigest, StoreError
from ..layout import Layout
from ..log import Log
from ..oci.digest import Digest
from . import chains
from .blobs import Blobs
from .containers import is_blank
from .layers import Layers

_log = Log(__name__)


@dataclass(frozen=True)
class Holdings:
    """Chains, and layers and blobs with their sizes in bytes."""

    chains: tuple[Path, ...]
    layers: Mapping[Digest, int]
    blobs: Mapping[Digest, int]

    @property
    def size_bytes(self) -> int:
        """The size of all."""
        return sum(self.layers.values()) + sum(self.blobs.values())


class Collector:
    """Finds what is no longer needed in a store."""

    def __init__(self, layout: Layout, blobs: Blobs, layers: Layers) -> None:
        self._layout = layout
        self._blobs = blobs
        self._layers = layers

    def containers_of(self, image: Digest) -> tuple[str, ...]:
        """Return the names of the containers that were made from this image."""
        users = (c for c in self._containers() if c.get("image_id") == str(image))
        return tuple(str(user.get("name") or user.get("id")) for user in users)

    def users(self, *, without: Collection[str] = ()) -> set[str]:
        """Return the ids of images that containers were made from, but of the ids ``without``."""
        return {str(container.get("image_id")) for container in self._containers(without)}

    def manifests(self, *, without: Collection[str] = ()) -> set[Digest]:
        """Return the manifests that containers need, of which older ones name none."""
        named = (container.get("manifest") for container in self._containers(without))
        return {Digest.parse(str(manifest)) for manifest in named if manifest is not None}

    def holdings(self) -> Holdings:
        """Return everything that is kept. Raises StoreError."""
        return Holdings(
            tuple(_entries(self._layout.chains)),
            {diffid: self._layers.size_bytes(diffid) for diffid in _digests(self._layout.layers)},
            {digest: self._blobs.size_bytes(digest) for digest in _digests(self._layout.blobs)},
        )

    def garbage(
        self,
        blobs: set[Digest],
        stacks: Iterable[tuple[Digest, ...]],
        *,
        without: Collection[str] = (),
    ) -> Holdings:
        """Return all but these blobs and stacks, and what containers need but those ``without``.

        Raises StoreError for a container's config that cannot be read: then nothing is safe to
        remove.
        """
        living = {tuple(map(str, stack)) for stack in stacks}
        for container in self._containers(without):
            layers = container.get("layers", [])
            if not isinstance(layers, list):
                raise StoreError(f"the config of container {container.get('id')} is damaged")
            living.add(tuple(map(str, layers)))
        needed = {text for stack in living for text in stack}
        held = self.holdings()
        records = ((path, chains.read(path)) for path in held.chains)
        return Holdings(
            tuple(p for p, record in records if record is None or record.layers not in living),
            {diffid: size for diffid, size in held.layers.items() if str(diffid) not in needed},
            {digest: size for digest, size in held.blobs.items() if digest not in blobs},
        )

    def take(self, garbage: Holdings, grave: Path) -> tuple[tuple[Digest, ...], int]:
        """Move garbage to the directory ``grave``, to be called with the lock held exclusively.

        Returns the diffIDs of the layers moved, and the bytes of blobs and layers.
        """
        for path in garbage.chains:
            path.rename(grave / path.name)
        for diffid in garbage.layers:
            self._layers.move(diffid, grave)
        for digest in garbage.blobs:
            self._blobs.discard(digest)
        freed_bytes = garbage.size_bytes + self._blobs.partials.sweep(longest_s=0)
        _log.info("collected %d layers, %d bytes in all", len(garbage.layers), freed_bytes)
        return tuple(sorted(garbage.layers)), freed_bytes

    def _containers(self, without: Collection[str] = ()) -> Iterator[dict[str, object]]:
        """Yield the configs of all containers, also of those that are only being made."""
        for path in _entries(self._layout.containers):
            if path.name.startswith(".") or path.name in without:
                continue  # with a dot it is put aside: it has ended, and is being removed
            try:
                text = (path / "config.json").read_text(encoding="utf-8")
                if is_blank(text):
                    continue
                config = json.loads(text)
            except (FileNotFoundError, NotADirectoryError):
                continue  # its maker holds the lock, or it is being removed
            except ValueError as error:
                raise StoreError(
                    f"the config of container {path.name} is damaged: remove {path}"
                ) from error
            if isinstance(config, dict):
                yield config


def _entries(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from directory.iterdir()


def _digests(directory: Path) -> Iterator[Digest]:
    """Yield what is kept under digests; leave alone what is not."""
    for path in _entries(directory):
        try:
            yield Digest("sha256", path.name)
        except InvalidDigest:
            continue
