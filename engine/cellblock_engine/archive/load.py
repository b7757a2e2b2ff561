"""An archive's images go into the store: blobs verified, layers unpacked, names last.

Layers are copied and unpacked several at once. The first failure, or an interrupt in the calling
thread, stops all of it: then only whole, verified blobs and layers are left, which garbage
collection takes away, and no image is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import Conflict, DigestMismatch, InvalidAnswer, InvalidArchive
from ..image import Image
from ..log import Log
from ..oci.config import parse_config
from ..oci.digest import Digest
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..store import Store
from .contents import Found, Packed, images
from .members import Members
from .source import opened

_AT_ONCE = min(4, os.cpu_count() or 1)
_TICK_S = 0.2  # an interrupt whose signal went to another thread is seen after this long
NAMELESS = "localhost/nameless"
_log = Log(__name__)


def load(store: Store, source: Path | BinaryIO) -> tuple[Image, ...]:
    """Add the images of an archive or layout, each once for each of its names; return them.

    One without a name is held by its digest. Raises InvalidInput, InvalidArchive, InvalidLayer,
    PlatformNotFound, StoreFull, StoreError.
    """
    with store.referencing(), opened(source, store.staging) as members, _refused():
        found = images(members, Platform.host())
        _Loading(store, members).run(found)
        named: dict[Reference, Digest] = {}
        for image in found:
            manifest = Digest.of(image.manifest)
            store.blobs.keep(Digest.of(image.config), image.config)
            store.blobs.keep(manifest, image.manifest)
            store.layers.chain(parse_config(image.config).diff_ids)
            for reference in image.references or (Reference.parse(f"{NAMELESS}@{manifest}"),):
                if named.setdefault(reference, manifest) != manifest:
                    raise InvalidArchive(
                        f"the archive is refused: it names two images {reference.familiar}"
                    )
        loaded = tuple(store.images.add(name, manifest) for name, manifest in named.items())
    for added in loaded:
        _log.info("loaded %s: %s", added.references[0], added.id)
    return loaded


@contextmanager
def _refused() -> Iterator[None]:
    """Say of the archive what is otherwise said of a registry."""
    try:
        yield
    except (DigestMismatch, InvalidAnswer) as error:
        raise InvalidArchive(f"the archive is refused: {error}") from error


class _Loading:
    """Copies and unpacks layers in a pool of threads; the calling thread only waits."""

    def __init__(self, store: Store, members: Members) -> None:
        self._store, self._members = store, members
        self._stopped = threading.Event()

    def run(self, found: Iterable[Found]) -> None:
        """Return when all layers are in the store; raise what failed first, all else stopped."""
        layers = {
            (layer.diffid, layer.descriptor.digest): layer
            for image in found
            for layer in image.layers
        }
        absent = {
            layer.descriptor.digest: layer.descriptor.size
            for layer in layers.values()
            if not self._store.blobs.has(layer.descriptor.digest)
        }
        self._store.blobs.check_room(sum(absent.values()))
        with (
            self._store.layers.warm(),
            ThreadPoolExecutor(_AT_ONCE, "cellblock-load") as pool,
        ):
            try:
                pending = {pool.submit(self._load, layer) for layer in layers.values()}
                while pending:
                    done, pending = wait(pending, _TICK_S, FIRST_COMPLETED)
                    for future in done:
                        future.result()
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _load(self, layer: Packed) -> None:
        descriptor, blobs = layer.descriptor, self._store.blobs
        if not blobs.has(descriptor.digest):
            with blobs.writer(descriptor.digest, descriptor.size) as writer:
                for piece in self._members.pieces(layer.file):
                    self._check(writer.written_bytes)
                    writer.write(piece)
                writer.commit()
        self._store.layers.extract(
            blobs.path(descriptor.digest), descriptor.media_type, layer.diffid, self._check
        )

    def _check(self, _: int) -> None:
        if self._stopped.is_set():
            raise Conflict("the loading was ended")
