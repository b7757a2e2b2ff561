"""The transfer of an image from the store to a registry.

What was pulled goes as it came: its manifest and blobs, byte for byte. Layers that have no blob,
those of commits, are packed first, and the image gets a manifest that names their blobs: from then
on its reference names that, here and there, so a push that was cut off, or another one, packs
nothing again. The registry gets the manifest last: until then it has no image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from ..errors import ImageNotFound
from ..image import Image
from ..log import Log
from ..oci.derivation import repacked
from ..oci.digest import Digest
from ..oci.manifest import DOCKER_FOREIGN_LAYER, OCI_FOREIGN_LAYER, OCI_LAYER, Descriptor
from ..oci.reference import DEFAULT_TAG, Reference
from ..progress import Progress
from ..settings import Registries
from ..store import Store
from ..store.compression import compress
from .patience import Patience
from .pool import all_done, pool
from .pull import Find
from .report import Report
from .repository import Repository
from .transport import Transport
from .trust import Trust
from .upload import Uploader

Compression = Literal["gzip", "zstd", "none"]

_UPLOADS = 4
_PACKINGS = min(4, os.cpu_count() or 1)
_PIECE_BYTES = 64 * 2**10  # each is sent within a time-out
_MOST_SOURCES = 8  # repositories to mount from; each is named in the request for a token
_FOREIGN = (OCI_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER)
# A registry may have to copy a whole blob before it answers.
_PATIENCE = Patience(read_timeout_s=60.0, answer_timeout_s=90.0)
_log = Log(__name__)


def push(
    reference: Reference,
    store: Store,
    *,
    compression: Compression = "gzip",
    progress: Progress | None = None,
    keyring: Find | None = None,
    patience: Patience | None = None,
    registries: Registries | None = None,
) -> Image:
    """Send the image that ``reference`` names in ``store`` to its registry; return it.

    ``compression`` is for layers that have no blob yet; "none" leaves them without. Mirrors have
    no part in this. Raises ImageNotFound, AccessDenied, RegistryUnavailable, DigestMismatch,
    InvalidAnswer, StoreFull, InvalidLayer for a layer that cannot be packed as it was.
    """
    report = Report(reference, progress)
    report.whole("resolving")
    trust = Trust(registries or Registries())
    with closing(Transport(patience or _PATIENCE, trust)) as transport, store.referencing():
        image = _named(store, reference)
        packed = _Packing(transport, store, report, compression).pack(image)
        store.images.supersede(reference, image.manifest, packed)
        raw, manifest = store.images.manifest(packed)
        layers = dict(zip(image.layers, manifest.layers, strict=True))
        sources = _sources(store, reference, layers.values())
        repository = Repository(
            transport,
            reference,
            (lambda: keyring(reference.registry)) if keyring is not None else None,
            writing=True,
            beside=sorted(set(sources.values())),
        )
        uploader = Uploader(repository)
        _Sending(transport, uploader, store, report, sources).send(layers, manifest.config)
        uploader.manifest(raw, manifest.media_type, reference.tag or DEFAULT_TAG)
        store.images.supersede(reference, packed, packed, served=True)
    _log.info("pushed %s: %s", reference, packed)
    report.whole("done")
    return replace(image, manifest=packed)


def _named(store: Store, reference: Reference) -> Image:
    try:
        return store.images.resolve(str(reference))
    except ImageNotFound:
        raise ImageNotFound(
            f"no image {reference.familiar} is in the store: give the one that is to be pushed "
            "that name with tag"
        ) from None


def _sources(store: Store, reference: Reference, layers: Iterable[Descriptor]) -> dict[Digest, str]:
    """Return from which other repositories of the registry these layers may be had."""
    served = store.images.served(reference.registry)
    sources: dict[Digest, str] = {}
    for layer in layers:
        source = served.get(layer.digest, reference.repository)
        known = set(sources.values())
        if source != reference.repository and (source in known or len(known) < _MOST_SOURCES):
            sources[layer.digest] = source
    return sources


def _is_elsewhere(layer: Descriptor) -> bool:
    """Tell a layer that its maker wants to be had from his own addresses only."""
    return layer.media_type.startswith(_FOREIGN) and bool(layer.urls)


@dataclass(frozen=True)
class _Packing:
    """Makes the blobs that an image's layers lack."""

    transport: Transport
    store: Store
    report: Report
    compression: Compression

    def pack(self, image: Image) -> Digest:
        """Return the manifest of the image by which all its layers can be sent."""
        raw, manifest = self.store.images.manifest(image.manifest)
        layers = dict(zip(image.layers, manifest.layers, strict=True))
        lacking = {diffid: layer for diffid, layer in layers.items() if self._lacks(diffid, layer)}
        if not lacking:
            return image.manifest
        known = self.store.images.packed()
        with pool(self.transport, _PACKINGS, "pack") as threads:
            making = {
                diffid: threads.submit(self._blob, diffid, layer, known.get(diffid, ()))
                for diffid, layer in lacking.items()
            }
            all_done(making.values())
        found = layers | {diffid: future.result() for diffid, future in making.items()}
        document = repacked(manifest, raw, [found[diffid] for diffid in image.layers])
        digest = Digest.of(document)
        self.store.blobs.keep(digest, document)
        return digest

    def _lacks(self, diffid: Digest, layer: Descriptor) -> bool:
        if self.store.blobs.has(layer.digest) or _is_elsewhere(layer):
            return False
        # An uncompressed layer can be packed while it is sent.
        return layer.digest != diffid or self.compression != "none"

    def _blob(self, diffid: Digest, layer: Descriptor, known: Iterable[Descriptor]) -> Descriptor:
        """Return the blob that the layer is packed in, made unless there is one."""
        compression = "gzip" if self.compression == "none" else self.compression
        for blob in known:
            if blob.media_type.endswith(compression):
                return blob
        archive = self._watched(self.store.layers.archive(diffid), diffid, layer)
        digest, size_bytes = self.store.blobs.add(compress(archive, compression))
        return replace(
            layer, media_type=f"{OCI_LAYER}+{compression}", digest=digest, size=size_bytes
        )

    def _watched(
        self, pieces: Iterable[bytes], diffid: Digest, layer: Descriptor
    ) -> Iterator[bytes]:
        done_bytes = 0
        for piece in pieces:
            self.transport.check()
            done_bytes += len(piece)
            self.report.layer(layer, "packing", done_bytes, name=diffid)
            yield piece


@dataclass(frozen=True)
class _Sending:
    """Lets the repository have the blobs of one image, in several threads."""

    transport: Transport
    uploader: Uploader
    store: Store
    report: Report
    sources: dict[Digest, str]

    def send(self, layers: dict[Digest, Descriptor], config: Descriptor) -> None:
        """Return when all are there; raise what failed first, all else stopped."""
        wanted = {d: layer for d, layer in layers.items() if not _is_elsewhere(layer)}
        for diffid, layer in wanted.items():
            self.report.layer(layer, "waiting", name=diffid)
        with pool(self.transport, _UPLOADS, "upload") as threads:
            sending = [threads.submit(self._config, config)]
            sending += [threads.submit(self._layer, *each) for each in wanted.items()]
            all_done(sending)

    def _config(self, config: Descriptor) -> None:
        if not self.uploader.has(config.digest):
            self.uploader.blob(config, partial(self.store.blobs.pieces, config.digest))

    def _layer(self, diffid: Digest, layer: Descriptor) -> None:
        location, source = None, self.sources.get(layer.digest)
        if self.uploader.has(layer.digest):
            self.report.layer(layer, "exists", layer.size, name=diffid)
            return
        if source is not None:
            location = self.uploader.mount(layer.digest, source)
            if location is None:
                self.report.layer(layer, "mounted", layer.size, name=diffid)
                return
        self.uploader.blob(layer, partial(self._content, diffid, layer), location)
        self.report.layer(layer, "done", layer.size, name=diffid)

    def _content(self, diffid: Digest, layer: Descriptor, start: int) -> Iterator[bytes]:
        """Yield what is to be sent of a layer from byte ``start`` on, and tell of it."""
        if self.store.blobs.has(layer.digest):
            pieces = self.store.blobs.pieces(layer.digest, start)
        else:
            pieces = _from(start, self.store.layers.archive(diffid))
        sent_bytes = start
        for piece in pieces:
            self.transport.check()
            yield piece
            sent_bytes += len(piece)
            self.report.layer(layer, "uploading", sent_bytes, name=diffid)


def _from(start: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a stream from byte ``start`` on, in small pieces."""
    for chunk in chunks:
        skipped = min(start, len(chunk))
        start -= skipped
        for at in range(skipped, len(chunk), _PIECE_BYTES):
            yield chunk[at : at + _PIECE_BYTES]
