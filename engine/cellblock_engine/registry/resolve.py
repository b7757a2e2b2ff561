"""From a reference to the one manifest and config it means on a platform.

Only the first answer is found by name; everything after it is found by digest, so a tag that
moves meanwhile cannot mix two images.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from ..errors import DigestMismatch, InvalidAnswer
from ..oci.config import MAX_CONFIG_BYTES, parse_config
from ..oci.digest import Digest
from ..oci.manifest import Descriptor, Index, Manifest, parse_manifest
from ..oci.platform import Platform
from ..oci.reference import DEFAULT_TAG, Reference
from ..oci.selection import check_kind, not_for, pair, select
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
        chosen = select(parsed, platform, reference.familiar)
        answer = client.manifest(chosen.digest)
        parsed = _chosen_manifest(answer, chosen)
    check_kind(parsed, reference.familiar)
    config_raw = _config(client, parsed.config)
    document = parse_config(config_raw)
    if (document.platform.os, document.platform.architecture) != (
        platform.os,
        platform.architecture,
    ):
        raise not_for(reference.familiar, platform, [document.platform])
    return Resolved(
        answer.digest,
        answer.raw,
        parsed.config.digest,
        config_raw,
        pair(parsed, document, reference.familiar),
    )


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
