"""Images of the store become one archive: a Docker archive and an OCI image layout at once.

As Docker writes it since version 25, so that Docker, Podman, skopeo and containerd all read it.
The same images give the same bytes: files come in one order, and no time is in it. Blobs go as
they are, so every digest stays; a layer that a commit has made, which has no blob, is packed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import InvalidInput, InvalidReference, StoreError, Unsupported
from ..image import Image
from ..oci.digest import Digest
from ..oci.manifest import OCI_INDEX, Descriptor, Manifest
from ..oci.reference import Reference
from ..request import HOST_IMAGE
from ..store import Store, pax, tar
from .contents import BLOBS, DOCKER_MANIFEST, INDEX, LAYOUT, NAME, REF_NAME

_FILE_MODE, _DIRECTORY_MODE = 0o644, 0o755


def save(store: Store, names: Sequence[str]) -> Iterator[bytes]:
    """Yield an archive of these images, in pieces.

    A name is in it as it was given; an image that was given by its id has none there. Raises
    ImageNotFound, InvalidInput, Unsupported for the host image, StoreError for what is damaged
    or not in the store.
    """
    if not names:
        raise InvalidInput("no image was named: say which to save")
    with store.referencing():
        yield from _Archive(store, _chosen(store, names)).pieces()


@dataclass(frozen=True)
class _Chosen:
    """An image that is to go into the archive, under these names."""

    image: Image
    raw: bytes
    manifest: Manifest
    references: tuple[Reference, ...]


def _chosen(store: Store, names: Sequence[str]) -> tuple[_Chosen, ...]:
    found: dict[Digest, _Chosen] = {}
    for name in names:
        if name == HOST_IMAGE:
            raise Unsupported(f"{name!r} is this machine's own image: it cannot be saved")
        image = store.images.resolve(name)
        raw, manifest = store.images.manifest(image.manifest)
        known = found.setdefault(image.manifest, _Chosen(image, raw, manifest, ()))
        references = dict.fromkeys((*known.references, *_named(name, image)))
        found[image.manifest] = replace(known, references=tuple(references))
    return tuple(found.values())


def _named(name: str, image: Image) -> tuple[Reference, ...]:
    """Return the reference that ``name`` is; none if it is an id."""
    try:
        reference = Reference.parse(name)
    except InvalidReference:
        return ()
    if reference not in image.references:
        return ()
    # The digest in a reference may be that of an index, which is not in the archive.
    digest = image.manifest if reference.tag is None else None
    return (replace(reference, digest=digest),)


class _Archive:
    """One archive: what is in it, in the order of the names."""

    def __init__(self, store: Store, images: Sequence[_Chosen]) -> None:
        self._store = store
        self._documents = {
            LAYOUT: _json({"imageLayoutVersion": "1.0.0"}),
            INDEX: _index(images),
            DOCKER_MANIFEST: _docker_manifest(images),
        }
        self._blobs: dict[Digest, int] = {}
        for chosen in images:
            self._blobs[chosen.image.manifest] = len(chosen.raw)
            self._blobs[chosen.manifest.config.digest] = chosen.manifest.config.size
            for diffid, layer in zip(chosen.image.layers, chosen.manifest.layers, strict=True):
                self._check(layer.digest, diffid)
                self._blobs[layer.digest] = layer.size

    def _check(self, digest: Digest, diffid: Digest) -> None:
        if digest != diffid and not self._store.blobs.has(digest):
            raise StoreError(
                f"layer {diffid.short} cannot be saved as its image has it: the store has it from "
                "another image, packed otherwise; remove both images and pull this one"
            )

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the archive."""
        directory = ""
        for part in BLOBS.strip("/").split("/"):
            directory += f"{part}/"
            yield pax.encode(_entry(directory, tar.DIRECTORY, 0))
        for digest, size in sorted(self._blobs.items()):
            yield pax.encode(_entry(BLOBS + digest.hex, tar.FILE, size))
            yield from self._blob(digest, size)
            yield pax.padding(size)
        for name, document in sorted(self._documents.items()):
            yield pax.encode(_entry(name, tar.FILE, len(document)))
            yield document + pax.padding(len(document))
        yield pax.END

    def _blob(self, digest: Digest, size: int) -> Iterator[bytes]:
        """Yield a blob, or the layer that is one; what is damaged is found out at its end."""
        there = self._store.blobs.has(digest)
        content = self._store.blobs.pieces(digest) if there else self._store.layers.archive(digest)
        hashed, left_bytes = hashlib.sha256(), size
        for piece in content:
            hashed.update(piece)
            left_bytes -= len(piece)
            if left_bytes < 0:
                break
            yield piece
        if left_bytes or hashed.hexdigest() != digest.hex:
            raise StoreError(f"blob {digest.short} is damaged on disk: remove and pull again")


def _index(images: Sequence[_Chosen]) -> bytes:
    """Return index.json: an entry for each name."""
    entries = []
    for chosen in images:
        media_type, size = chosen.manifest.media_type, len(chosen.raw)
        entry = _described(Descriptor(media_type, chosen.image.manifest, size))
        entries += [
            entry | {"annotations": _annotations(reference)} for reference in chosen.references
        ] or [entry]
    return _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _described(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


def _annotations(reference: Reference) -> dict[str, str]:
    tag = {} if reference.tag is None else {REF_NAME: reference.tag}
    return {NAME: str(reference), **tag}


def _docker_manifest(images: Sequence[_Chosen]) -> bytes:
    """Return manifest.json, which older Dockers read; names with a digest are not for it."""
    return _json(
        [
            {
                "Config": BLOBS + chosen.manifest.config.digest.hex,
                "RepoTags": [each.familiar for each in chosen.references if each.tag] or None,
                "Layers": [BLOBS + layer.digest.hex for layer in chosen.manifest.layers],
            }
            for chosen in images
        ]
    )


def _entry(name: str, kind: bytes, size: int) -> tar.Entry:
    mode = _DIRECTORY_MODE if kind == tar.DIRECTORY else _FILE_MODE
    return tar.Entry(name.encode(), kind, size, mode, 0, 0, 0, b"", (0, 0), {})


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
