"""Manifests, indexes and the descriptors they are made of; no I/O.

OCI's image-spec (manifest.md, image-index.md, descriptor.md) and Docker's image manifest v2,
schema 2. Schema 1 is refused. A document that could be read as both a manifest and an index is
refused too (CVE-2021-41190): what it is must follow from its declared type and its members alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import InvalidAnswer, InvalidDigest
from .digest import Digest
from .jsonobject import JsonObject
from .platform import Platform

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})

LAYER_TYPES: Final = frozenset(
    {
        OCI_LAYER,
        f"{OCI_LAYER}+gzip",
        f"{OCI_LAYER}+zstd",
        OCI_FOREIGN_LAYER,
        f"{OCI_FOREIGN_LAYER}+gzip",
        f"{OCI_FOREIGN_LAYER}+zstd",
        DOCKER_LAYER,
        f"{DOCKER_LAYER}.gzip",
        f"{DOCKER_LAYER}.zstd",
        f"{DOCKER_FOREIGN_LAYER}.gzip",
    }
)

MAX_MANIFEST_BYTES: Final = 4 * 2**20  # what distribution-spec asks registries to accept
MAX_LAYERS: Final = 500  # OVL_MAX_STACK of the kernel's overlayfs
MAX_MANIFESTS: Final = 1000

# Servers that know nothing of images send these; then the document's own members decide.
_UNSPECIFIC = frozenset({"application/json", "application/octet-stream"})
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"


@dataclass(frozen=True)
class Descriptor:
    """What some content is, and what it must hash to; ``size`` is in bytes.

    ``urls`` is kept for the record: cellblock fetches content from the image's registry only.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Manifest:
    """One image for one platform: its config and its layers, the bottom one first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Index:
    """The manifests of one image for several platforms (an OCI index or a Docker list)."""

    media_type: str
    manifests: tuple[Descriptor, ...]


def parse_manifest(raw: bytes, media_type: str | None) -> Manifest | Index:
    """Return the manifest or index ``raw`` holds.

    ``media_type`` is what the server or the descriptor called it (parameters are ignored), None
    where nobody said. Raises InvalidAnswer when the two disagree, when a cap is exceeded, or when
    the document is neither.
    """
    declared = (media_type or "").partition(";")[0].strip().lower()
    if declared and declared not in INDEX_TYPES | MANIFEST_TYPES | _UNSPECIFIC:
        raise _unknown_type(declared)
    document = JsonObject.decode(raw, "the image manifest", MAX_MANIFEST_BYTES)
    if document.integer("schemaVersion") != 2:
        raise _unknown_type(f"{_SCHEMA_1}json")
    kind = _kind(document, "" if declared in _UNSPECIFIC else declared)
    if kind in INDEX_TYPES:
        entries = document.members("manifests", MAX_MANIFESTS)
        return Index(kind, tuple(map(_descriptor, entries)))
    layers = document.members("layers", MAX_LAYERS)
    config = _descriptor(document.required_member("config"))
    return Manifest(kind, config, tuple(map(_descriptor, layers)))


def _kind(document: JsonObject, declared: str) -> str:
    """Return the one media type that the declaration and all members agree on."""
    is_index = "manifests" in document
    is_manifest = "config" in document or "layers" in document
    if is_index and is_manifest:
        raise InvalidAnswer("the image manifest is refused: it is also an index")
    if "fsLayers" in document:
        raise _unknown_type(f"{_SCHEMA_1}json")
    embedded = document.text("mediaType") or ""
    if declared and embedded and declared != embedded:
        raise InvalidAnswer(
            f"the image manifest is refused: served as {declared[:80]!r}, "
            f"it calls itself {embedded[:80]!r}"
        )
    kind = declared or embedded or (OCI_INDEX if is_index else OCI_MANIFEST)
    if kind not in INDEX_TYPES | MANIFEST_TYPES:
        raise _unknown_type(kind)
    if is_index != (kind in INDEX_TYPES) or not (is_index or is_manifest):
        raise InvalidAnswer(f"the image manifest is refused: it is not the {kind!r} it claims")
    return kind


def _descriptor(document: JsonObject) -> Descriptor:
    try:
        digest = Digest.parse(document.required_text("digest"))
    except InvalidDigest as error:
        raise document.wrong("digest", f"is refused: {error}") from error
    platform = document.member("platform")
    return Descriptor(
        media_type=document.required_text("mediaType"),
        digest=digest,
        size=document.integer("size"),
        platform=None if platform is None else _platform(platform),
        urls=document.texts("urls"),
        annotations=document.mapping("annotations"),
    )


def _platform(document: JsonObject) -> Platform:
    return Platform.of(
        document.required_text("os"),
        document.required_text("architecture"),
        document.text("variant"),
    )


def _unknown_type(media_type: str) -> InvalidAnswer:
    if media_type.startswith(_SCHEMA_1):
        return InvalidAnswer(
            "the image manifest is of Docker's schema 1, which is no longer safe: "
            "push the image again with a current tool"
        )
    return InvalidAnswer(
        f"the answer is not an image manifest but {media_type[:80]!r}: "
        "is this address an image registry?"
    )
