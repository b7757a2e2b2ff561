"""The transfer of an image from a registry into the store.

Layers download in parallel and are verified while they are written; each is extracted as soon as
it is there, while others still download. The first failure, or an interrupt in the calling
thread, stops all of it. Then only whole, verified blobs and layers are left, and the beginnings of
large blobs: another try goes on from them, and garbage collection takes them away; no image is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

from ..errors import DigestMismatch, ImageNotFound, RegistryError, RegistryUnavailable
from ..image import Image
from ..log import Log
from ..oci.digest import Digest
from ..oci.manifest import Descriptor
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..progress import Progress
from ..settings import Registries
from ..store import Store
from .auth import Credentials
from .client import RegistryClient
from .patience import Patience
from .pool import pool, some_done
from .report import Report
from .resolve import resolve
from .transport import Stopped, Transport
from .trust import Trust

_DOWNLOADS = 4
_EXTRACTIONS = min(4, os.cpu_count() or 1)
_MIRROR_ATTEMPTS = 2
_log = Log(__name__)
# Finds the credentials for a registry by its name, or for a mirror by its host.
Find = Callable[[str], Credentials | None]


def pull(
    reference: Reference,
    store: Store,
    *,
    platform: Platform | None = None,
    progress: Progress | None = None,
    keyring: Find | None = None,
    patience: Patience | None = None,
    registries: Registries | None = None,
) -> Image:
    """Load the image ``reference`` names into ``store``, and return it.

    ``platform`` is this machine's where it is None. Mirrors named in ``registries`` are asked
    first, and the registry itself when none of them has given the image. Raises ImageNotFound,
    PlatformNotFound, AccessDenied, RegistryUnavailable, DigestMismatch, InvalidAnswer, StoreFull,
    InvalidLayer.
    """
    registries = registries or Registries()
    trust, patience = Trust(registries), patience or Patience()
    report = Report(reference, progress)
    report.whole("resolving")

    def load(patience: Patience, mirror: str | None = None) -> Image:
        host = (mirror or reference.registry).partition("/")[0]
        with closing(Transport(patience, trust)) as transport, store.referencing():
            lookup = (lambda: keyring(host)) if keyring is not None else None
            client = RegistryClient(transport, reference, lookup, mirror=mirror)
            image = resolve(client, reference, platform or Platform.host())
            _Transfer(transport, client, store, report).run(
                _Job(diff_id, descriptor) for diff_id, descriptor in image.layers.items()
            )
            store.blobs.keep(image.config, image.config_raw)
            store.blobs.keep(image.manifest, image.manifest_raw)
            return store.images.add(reference, image.manifest, served=mirror is None)

    sooner = replace(patience, attempts=min(patience.attempts, _MIRROR_ATTEMPTS))
    for mirror in registries.mirrors.get(reference.registry, ()):
        try:
            image = load(sooner, mirror)
        except (RegistryError, ImageNotFound) as error:
            _log.info("mirror %s did not give %s: %s", mirror, reference, error)
        else:
            break
    else:
        image = load(patience)
    _log.info("pulled %s: %s", reference, image.id)
    report.whole("done")
    return image


@dataclass(frozen=True)
class _Job:
    """One layer to be had: what it is once unpacked, and the blob it is packed in."""

    diff_id: Digest
    descriptor: Descriptor


class _Transfer:
    """Runs the jobs of one pull in two pools of threads; the calling thread only directs."""

    def __init__(
        self, transport: Transport, client: RegistryClient, store: Store, report: Report
    ) -> None:
        self._transport, self._client = transport, client
        self._store, self._report = store, report

    def run(self, jobs: Iterable[_Job]) -> None:
        """Return when all layers are in the store; raise what failed first, all else stopped."""
        missing = [job for job in jobs if not self._is_there(job)]
        if not missing:
            return
        descriptors = [job.descriptor for job in missing]
        self._store.blobs.check_room(
            sum(each.size for each in descriptors if not self._store.blobs.has(each.digest))
        )
        with (
            self._store.layers.warm(),
            pool(self._transport, _EXTRACTIONS, "extract") as extractions,
            pool(self._transport, _DOWNLOADS, "download") as downloads,
        ):
            self._direct(missing, downloads, extractions)

    def _is_there(self, job: _Job) -> bool:
        there = self._store.layers.has(job.diff_id)
        self._report.layer(job.descriptor, "exists" if there else "waiting")
        return there

    def _direct(
        self, jobs: list[_Job], downloads: ThreadPoolExecutor, extractions: ThreadPoolExecutor
    ) -> None:
        downloading: dict[Future[None], _Job] = {
            downloads.submit(self._download, job.descriptor): job for job in jobs
        }
        extracting: set[Future[None]] = set()
        while downloading or extracting:
            done = some_done(downloading.keys() | extracting)
            for future in done:
                job = downloading.pop(future, None)
                if job is not None:
                    extracting.add(extractions.submit(self._extract, job))
            extracting -= done

    def _download(self, descriptor: Descriptor) -> None:
        if self._store.blobs.has(descriptor.digest):
            return
        begun = self._store.blobs.partials.has(descriptor.digest)
        try:
            self._fetch(descriptor)
        except DigestMismatch:
            if not begun:
                raise
            self._fetch(descriptor)  # anew: the beginning, which may have been wrong, is used up

    def _fetch(self, descriptor: Descriptor) -> None:
        self._report.layer(descriptor, "downloading")
        with self._store.blobs.writer(descriptor.digest, descriptor.size) as writer:
            start = writer.resume()
            try:
                with closing(self._client.blob(descriptor, start)) as chunks:
                    for chunk in chunks:
                        writer.write(chunk)
                        self._report.layer(descriptor, "downloading", writer.written_bytes)
            except (RegistryUnavailable, Stopped):
                writer.keep()
                raise
            writer.commit()

    def _extract(self, job: _Job) -> None:
        descriptor = job.descriptor

        def advance(current_bytes: int) -> None:
            self._transport.check()
            self._report.layer(descriptor, "extracting", current_bytes)

        advance(0)
        self._store.layers.extract(
            self._store.blobs.path(descriptor.digest), descriptor.media_type, job.diff_id, advance
        )
        self._report.layer(descriptor, "done", descriptor.size)
