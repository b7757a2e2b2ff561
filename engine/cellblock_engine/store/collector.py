"""Garbage: blobs, layers and chains that no image and no container needs.

A container keeps alive what its ``config.json`` names: ``layers``, diffIDs from the bottom up, and
the image of ``manifest``, even when that has no reference any more.
Garbage is renamed away while the caller holds the store's lock exclusively; freeing it, the slow
part, is for afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
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

    def manifests(self) -> set[Digest]:
        """Return the manifests that containers need, of which older ones name none."""
        named = (container.get("manifest") for container in self._containers())
        return {Digest.parse(str(manifest)) for manifest in named if manifest is not None}

    def take(
        self, blobs: set[Digest], stacks: Iterable[tuple[Digest, ...]], grave: Path
    ) -> tuple[tuple[Digest, ...], int]:
        """Move to the directory ``grave`` all but these blobs and stacks, and what containers need.

        Returns the diffIDs of the layers moved, and the bytes of blobs and layers. To be called
        with the store's lock held exclusively. Raises StoreError for a container's config that
        cannot be read: then nothing is safe to remove.
        """
        living = {tuple(map(str, stack)) for stack in stacks}
        for container in self._containers():
            layers = container.get("layers", [])
            if not isinstance(layers, list):
                raise StoreError(f"the config of container {container.get('id')} is damaged")
            living.add(tuple(map(str, layers)))
        needed = {text for stack in living for text in stack}

        for path in _entries(self._layout.chains):
            record = chains.read(path)
            if record is None or record.layers not in living:
                path.rename(grave / path.name)
        removed, freed_bytes = [], 0
        for diffid in _digests(self._layout.layers):
            if str(diffid) not in needed:
                freed_bytes += self._layers.size_bytes(diffid)
                self._layers.move(diffid, grave)
                removed.append(diffid)
        for digest in _digests(self._layout.blobs):
            if digest not in blobs:
                freed_bytes += self._blobs.discard(digest)
        freed_bytes += self._blobs.partials.sweep(longest_s=0)
        _log.info("collected %d layers, %d bytes in all", len(removed), freed_bytes)
        return tuple(sorted(removed)), freed_bytes

    def _containers(self) -> Iterator[dict[str, object]]:
        """Yield the configs of all containers, also of those that are only being made."""
        for path in _entries(self._layout.containers):
            if path.name.startswith("."):
                continue  # put aside: it has ended, and is being removed
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
