"""Which manifest of an index a machine runs, and what makes a manifest an image to run; no I/O.

``name`` is what errors call the image.
"""

from __future__ import annotations

from ..errors import InvalidAnswer, PlatformNotFound
from .config import ImageDocument
from .digest import Digest
from .manifest import CONFIG_TYPES, LAYER_TYPES, MANIFEST_TYPES, Descriptor, Index, Manifest
from .platform import Platform


def select(index: Index, platform: Platform, name: str) -> Descriptor:
    """Return the manifest in ``index`` that a machine of ``platform`` runs best.

    One that names no platform is taken when nothing else fits; its config then tells. Raises
    PlatformNotFound.
    """
    best, best_rank = None, -1
    for entry in index.manifests:
        if entry.media_type not in MANIFEST_TYPES:
            continue  # an index in an index, an artefact: no image to run
        rank = -1 if entry.platform is None else platform.runs(entry.platform)
        if rank is not None and (best is None or rank > best_rank):
            best, best_rank = entry, rank
    if best is None:
        there = [entry.platform for entry in index.manifests if entry.platform is not None]
        raise not_for(name, platform, there)
    return best


def check_kind(manifest: Manifest, name: str) -> None:
    """Refuse what is no image to run (charts, signatures, models) before anything is loaded.

    Raises InvalidAnswer.
    """
    for descriptor, known in (
        (manifest.config, CONFIG_TYPES),
        *((layer, LAYER_TYPES) for layer in manifest.layers),
    ):
        if descriptor.media_type not in known:
            raise InvalidAnswer(
                f"{name} is not a container image: it contains {descriptor.media_type[:80]!r}"
            )


def pair(manifest: Manifest, document: ImageDocument, name: str) -> dict[Digest, Descriptor]:
    """Return the blob that each layer is packed in, by its diffID, the bottom one first.

    Raises InvalidAnswer for a manifest and a config that do not fit.
    """
    if len(document.diff_ids) != len(manifest.layers):
        raise InvalidAnswer(
            f"{name} is damaged: its manifest has {len(manifest.layers)} layers, "
            f"its config {len(document.diff_ids)}"
        )
    if not manifest.layers:
        raise InvalidAnswer(f"{name} has no layers: there is nothing in it to run")
    # A layer may occur twice (an empty one often does); it is loaded once.
    pairs: dict[Digest, Descriptor] = {}
    for diff_id, layer in zip(document.diff_ids, manifest.layers, strict=True):
        pairs.setdefault(diff_id, layer)
    return pairs


def not_for(name: str, platform: Platform, there: list[Platform]) -> PlatformNotFound:
    """Return the error that names the platforms there are instead."""
    # "unknown" is what BuildKit calls the platform of its attestations.
    names = sorted({str(found) for found in there if found.os != "unknown"})
    listed = ", ".join(names[:20]) or "none that is named"
    return PlatformNotFound(f"{name} is not there for {platform}; there is: {listed[:300]}")
