"""What images an archive says it has: an OCI image layout, or what ``docker save`` has written.

OCI's image-spec (image-layout.md), and Docker's manifest.json (moby, image/spec). Where an archive
is both, as Docker's are since version 25, the layout counts: it has digests. Everything found is
a claim until it has been loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import InvalidArchive, InvalidReference
from ..oci.config import MAX_CONFIG_BYTES, parse_config
from ..oci.derivation import oci_manifest
from ..oci.digest import Digest
from ..oci.jsonobject import JsonObject
from ..oci.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..oci.selection import check_kind, pair, select
from ..request import HOST_IMAGE
from ..store.compression import compression_of
from .members import Members

LAYOUT = "oci-layout"
INDEX = "index.json"
DOCKER_MANIFEST = "manifest.json"
BLOBS = "blobs/sha256/"
NAME, REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
_MAX_NAMES = 10_000
_MAX_LAYOUT_BYTES = 2**16
_MAX_DOCUMENTS_BYTES = 2**26  # manifests and configs of one archive together


@dataclass(frozen=True)
class Packed:
    """A layer in the archive: what it is once unpacked, its blob, and the file that has it."""

    diffid: Digest
    descriptor: Descriptor
    file: str


@dataclass(frozen=True)
class Found:
    """An image of the archive, and its names; ``manifest`` and ``config`` are documents."""

    manifest: bytes
    config: bytes
    layers: tuple[Packed, ...]
    references: tuple[Reference, ...]


def images(members: Members, platform: Platform) -> tuple[Found, ...]:
    """Return the images of an archive; of an index, the one for ``platform``.

    Raises InvalidArchive, InvalidAnswer, PlatformNotFound.
    """
    documents = _Documents(members)
    if members.has(LAYOUT) and members.has(INDEX):
        found = tuple(_layout(documents, platform))
    elif members.has(DOCKER_MANIFEST):
        found = tuple(_docker(documents))
    else:
        raise InvalidArchive(
            "this is no archive of images: it has neither oci-layout and index.json nor "
            "manifest.json"
        )
    if not found:
        raise InvalidArchive("the archive has no images")
    return found


class _Documents:
    """The documents of an archive: each is read once, and all of them together are capped."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self._known: dict[str, bytes] = {}
        self._left_bytes = _MAX_DOCUMENTS_BYTES

    def read(self, name: str, cap_bytes: int) -> bytes:
        """Return a document. Raises InvalidArchive, also beyond the cap in bytes."""
        name = self.members.real(name)
        if name not in self._known:
            size_bytes = self.members.size(name)
            self._left_bytes -= size_bytes
            if size_bytes > cap_bytes or self._left_bytes < 0:
                raise InvalidArchive(
                    f"the archive is refused: with the {size_bytes} bytes of {name[-80:]!r}, its "
                    "documents are larger than allowed"
                )
            self._known[name] = b"".join(self.members.pieces(name))
        return self._known[name]

    def blob(self, descriptor: Descriptor, cap_bytes: int) -> bytes:
        """Return what a descriptor names, verified. Raises InvalidArchive."""
        raw = self.read(_path(descriptor), cap_bytes)
        if Digest.of(raw) != descriptor.digest or len(raw) != descriptor.size:
            raise InvalidArchive(
                f"the archive is damaged: its blob {descriptor.digest.short} has another digest "
                "or size than its index says"
            )
        return raw


def _layout(documents: _Documents, platform: Platform) -> Iterator[Found]:
    raw = documents.read(LAYOUT, _MAX_LAYOUT_BYTES)
    layout = JsonObject.decode(raw, LAYOUT, _MAX_LAYOUT_BYTES)
    if layout.required_text("imageLayoutVersion") != "1.0.0":
        raise layout.wrong("imageLayoutVersion", "is not 1.0.0")
    index = parse_manifest(documents.read(INDEX, MAX_MANIFEST_BYTES), None)
    if not isinstance(index, Index):
        raise InvalidArchive("the archive is refused: its index.json is no index")
    named: dict[Descriptor, list[Reference]] = {}
    chosen: dict[tuple[Digest, str], Descriptor] = {}
    for entry in index.manifests:
        key = entry.digest, entry.media_type
        if key not in chosen:
            chosen[key] = _chosen(documents, entry, platform)
        references = named.setdefault(chosen[key], [])
        references += _annotated(entry, chosen[key].digest)
    for entry, references in named.items():
        yield _found(documents, entry, tuple(dict.fromkeys(references)))


def _chosen(documents: _Documents, entry: Descriptor, platform: Platform) -> Descriptor:
    """Return the manifest that an entry is or, through one index more, means here."""
    parsed = parse_manifest(documents.blob(entry, MAX_MANIFEST_BYTES), entry.media_type)
    if isinstance(parsed, Index):
        there = tuple(each for each in parsed.manifests if documents.members.has(_path(each)))
        entry = select(replace(parsed, manifests=there), platform, entry.digest.short)
    return Descriptor(entry.media_type, entry.digest, entry.size)


def _found(documents: _Documents, entry: Descriptor, references: tuple[Reference, ...]) -> Found:
    raw = documents.blob(entry, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(raw, entry.media_type)
    if not isinstance(manifest, Manifest):
        raise InvalidArchive("the archive is refused: an index in it leads to an index")
    name = references[0].familiar if references else entry.digest.short
    check_kind(manifest, name)
    config = documents.blob(manifest.config, MAX_CONFIG_BYTES)
    layers = pair(manifest, parse_config(config), name)
    packed = (Packed(diffid, layer, _path(layer)) for diffid, layer in layers.items())
    return Found(raw, config, tuple(packed), references)


def _path(descriptor: Descriptor) -> str:
    return BLOBS + descriptor.digest.hex


def _annotated(entry: Descriptor, manifest: Digest) -> list[Reference]:
    """Return the name that annotations give, if any; a tag alone, as umoci's, is none."""
    name = entry.annotations.get(NAME) or entry.annotations.get(REF_NAME, "")
    if "/" not in name and ":" not in name:
        return []
    reference = _reference(name)
    if reference.digest not in (None, entry.digest, manifest):
        raise InvalidArchive(
            f"the archive is refused: what it names {name[:80]!r} has another digest"
        )
    return [replace(reference, digest=reference.digest and manifest)]


def _reference(name: str) -> Reference:
    try:
        reference = Reference.parse(name)
    except InvalidReference as error:
        raise InvalidArchive(f"the archive is refused: {error}") from error
    if replace(reference, tag=None, digest=None).familiar == HOST_IMAGE:
        raise InvalidArchive(
            f"the archive is refused: {HOST_IMAGE!r}, as it names an image, is this machine's own"
        )
    return reference


def _docker(documents: _Documents) -> Iterator[Found]:
    raw = documents.read(DOCKER_MANIFEST, MAX_MANIFEST_BYTES)
    described: dict[str, Descriptor] = {}
    for entry in JsonObject.decode_all(raw, DOCKER_MANIFEST, MAX_MANIFEST_BYTES, MAX_MANIFESTS):
        config = documents.read(_name(entry.required_text("Config")), MAX_CONFIG_BYTES)
        diffids = parse_config(config).diff_ids
        files = [documents.members.real(_name(file)) for file in entry.texts("Layers")]
        if not files or len(files) != len(diffids):
            raise InvalidArchive(
                f"the archive is damaged: an image of it has {len(files)} layers, its config "
                f"{len(diffids)}"
            )
        layers = []
        for diffid, file in zip(diffids, files, strict=True):
            if file not in described:
                described[file] = _described(documents.members, file, diffid)
            layers.append(Packed(diffid, described[file], file))
        descriptor = Descriptor(OCI_CONFIG, Digest.of(config), len(config))
        manifest = oci_manifest(descriptor, tuple(layer.descriptor for layer in layers))
        tags = entry.texts("RepoTags")
        if len(tags) > _MAX_NAMES:
            raise entry.wrong("RepoTags", f"has more than {_MAX_NAMES} names")
        yield Found(manifest, config, tuple(layers), tuple(map(_tagged, tags)))


def _tagged(name: str) -> Reference:
    reference = _reference(name)
    if reference.digest is not None:
        raise InvalidArchive(f"the archive is refused: its tag {name[:80]!r} has a digest")
    return reference


def _described(members: Members, file: str, diffid: Digest) -> Descriptor:
    """Return what a layer's file is: Docker says no digest, but not compressed it is the diffID."""
    beginning = next(members.pieces(file), b"")[:4]
    compression = compression_of(beginning)
    if compression is None:
        return Descriptor(OCI_LAYER, diffid, members.size(file))
    hashed = hashlib.sha256()
    for piece in members.pieces(file):
        hashed.update(piece)
    digest = Digest("sha256", hashed.hexdigest())
    return Descriptor(f"{OCI_LAYER}+{compression}", digest, members.size(file))


def _name(text: str) -> str:
    return text.removeprefix("./")
