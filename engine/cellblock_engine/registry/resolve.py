"""From a reference to the one manifest and config it means on a platform.

Only the first answer is found by name; everything after it is found by digest, so a tag that
moves meanwhile cannot mix two images.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from ..errors import DigestMismatch, InvalidAnswer, PlatformNotFound
from ..oci.config import MAX_CONFIG_BYTES, ImageDocument, parse_config
from ..oci.digest import Digest
from ..oci.manifest import (
    CONFIG_TYPES,
    LAYER_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)
from ..oci.platform import Platform
from ..oci.reference import DEFAULT_TAG, Reference
from .client import Answer, RegistryClient


@dataclass(frozen=True)
class Resolved:
    """An image of a registry, verified down to the digests of its layers.

    ``layers`` maps each diffID, in order, to the blob it is packed in.
    """

    manifest: Digest
    manifest_raw: bytes
    config: Digest
    config_raw: bytes
    layers: dict[Digest, Descriptor]


def resolve(client: RegistryClient, reference: Reference, platform: Platform) -> Resolved:
    """Return what ``reference`` means on ``platform``.

    Raises PlatformNotFound (naming the platforms there are), InvalidAnswer, DigestMismatch and
    whatever :meth:`RegistryClient.manifest` raises.
    """
    answer = client.manifest(reference.digest or reference.tag or DEFAULT_TAG)
    parsed = parse_manifest(answer.raw, answer.media_type)
    if isinstance(parsed, Index):
        chosen = select(parsed, platform, reference)
        answer = client.manifest(chosen.digest)
        parsed = _chosen_manifest(answer, chosen)
    _check_kind(parsed, reference)
    config_raw = _config(client, parsed.config)
    document = parse_config(config_raw)
    if (document.platform.os, document.platform.architecture) != (
        platform.os,
        platform.architecture,
    ):
        raise _not_for(reference, platform, [document.platform])
    return Resolved(
        answer.digest,
        answer.raw,
        parsed.config.digest,
        config_raw,
        _pair(parsed, document, reference),
    )


def select(index: Index, platform: Platform, reference: Reference) -> Descriptor:
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
        raise _not_for(reference, platform, there)
    return best


def _chosen_manifest(answer: Answer, chosen: Descriptor) -> Manifest:
    if len(answer.raw) != chosen.size:
        raise DigestMismatch(
            f"manifest {chosen.digest} has {len(answer.raw)} bytes, "
            f"but its index says {chosen.size}: one of the two is forged"
        )
    manifest = parse_manifest(answer.raw, answer.media_type)
    if isinstance(manifest, Index) or manifest.media_type != chosen.media_type:
        raise InvalidAnswer(
            f"manifest {chosen.digest} is refused: it is of type {manifest.media_type!r}, "
            f"but its index says {chosen.media_type!r}"
        )
    return manifest


def _check_kind(manifest: Manifest, reference: Reference) -> None:
    """Refuse what is no image to run (charts, signatures, models) before anything is loaded."""
    for descriptor, known in (
        (manifest.config, CONFIG_TYPES),
        *((layer, LAYER_TYPES) for layer in manifest.layers),
    ):
        if descriptor.media_type not in known:
            raise InvalidAnswer(
                f"{reference.familiar} is not a container image: "
                f"it contains {descriptor.media_type[:80]!r}"
            )


def _config(client: RegistryClient, descriptor: Descriptor) -> bytes:
    if descriptor.size > MAX_CONFIG_BYTES:
        raise InvalidAnswer(
            f"the image config has {descriptor.size} bytes, "
            f"more than the {MAX_CONFIG_BYTES} allowed"
        )
    with closing(client.blob(descriptor)) as chunks:
        raw = b"".join(chunks)
    if Digest.of(raw) != descriptor.digest:
        raise DigestMismatch(
            f"the image config has digest {Digest.of(raw)} instead of {descriptor.digest}: "
            "the registry's copy is damaged or forged"
        )
    return raw


def _pair(
    manifest: Manifest, document: ImageDocument, reference: Reference
) -> dict[Digest, Descriptor]:
    if len(document.diff_ids) != len(manifest.layers):
        raise InvalidAnswer(
            f"{reference.familiar} is damaged: its manifest has {len(manifest.layers)} layers, "
            f"its config {len(document.diff_ids)}"
        )
    if not manifest.layers:
        raise InvalidAnswer(f"{reference.familiar} has no layers: there is nothing in it to run")
    # A layer may occur twice (an empty one often does); it is loaded once.
    pairs: dict[Digest, Descriptor] = {}
    for diff_id, layer in zip(document.diff_ids, manifest.layers, strict=True):
        pairs.setdefault(diff_id, layer)
    return pairs


def _not_for(reference: Reference, platform: Platform, there: list[Platform]) -> PlatformNotFound:
    # "unknown" is what BuildKit calls the platform of its attestations.
    names = sorted({str(found) for found in there if found.os != "unknown"})
    listed = ", ".join(names[:20]) or "none that is named"
    return PlatformNotFound(
        f"{reference.familiar} is not there for {platform}; there is: {listed[:300]}"
    )
