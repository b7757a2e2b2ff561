"""The transfer of an image from a registry into the store.

Layers download in parallel and are verified while they are written; each is extracted as soon as
it is there, while others still download. The first failure, or an interrupt in the calling
thread, stops all of it. Then only whole, verified blobs and layers are left, which another try
finds again and garbage collection takes away; no image is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass

from ..image import Image
from ..oci.digest import Digest
from ..oci.manifest import Descriptor
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..progress import Progress
from ..store import Store
from .auth import Credentials
from .client import RegistryClient
from .patience import Patience
from .report import Report
from .resolve import resolve
from .transport import Transport

_DOWNLOADS = 4
_EXTRACTIONS = min(4, os.cpu_count() or 1)
_TICK_S = 0.2  # an interrupt whose signal went to another thread is seen after this long


def pull(
    reference: Reference,
    store: Store,
    *,
    platform: Platform | None = None,
    progress: Progress | None = None,
    credentials: Credentials | None = None,
    patience: Patience | None = None,
) -> Image:
    """Load the image ``reference`` names into ``store``, and return it.

    ``platform`` is this machine's where it is None. Raises ImageNotFound, PlatformNotFound,
    AccessDenied, RegistryUnavailable, DigestMismatch, InvalidAnswer, StoreFull, InvalidLayer.
    """
    report = Report(reference, progress)
    report.whole("resolving")
    with closing(Transport(patience or Patience())) as transport, store.referencing():
        client = RegistryClient(transport, reference, credentials)
        image = resolve(client, reference, platform or Platform.host())
        _Transfer(transport, client, store, report).run(
            _Job(diff_id, descriptor) for diff_id, descriptor in image.layers.items()
        )
        _keep(store, image.config, image.config_raw)
        _keep(store, image.manifest, image.manifest_raw)
        added = store.images.add(reference, image.manifest)
    report.whole("done")
    return added


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
            ThreadPoolExecutor(_EXTRACTIONS, "cellblock-extract") as extractions,
            ThreadPoolExecutor(_DOWNLOADS, "cellblock-download") as downloads,
        ):
            try:
                self._direct(missing, downloads, extractions)
            except BaseException:
                self._transport.stop()
                downloads.shutdown(wait=False, cancel_futures=True)
                extractions.shutdown(wait=False, cancel_futures=True)
                raise

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
            pending = downloading.keys() | extracting
            done, _ = wait(pending, timeout=_TICK_S, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                job = downloading.pop(future, None)
                if job is not None:
                    extracting.add(extractions.submit(self._extract, job))
            extracting -= done

    def _download(self, descriptor: Descriptor) -> None:
        if self._store.blobs.has(descriptor.digest):
            return
        received = 0
        self._report.layer(descriptor, "downloading")
        with (
            self._store.blobs.writer(descriptor.digest, descriptor.size) as writer,
            closing(self._client.blob(descriptor)) as chunks,
        ):
            for chunk in chunks:
                writer.write(chunk)
                received += len(chunk)
                self._report.layer(descriptor, "downloading", received)
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


def _keep(store: Store, digest: Digest, raw: bytes) -> None:
    if store.blobs.has(digest):
        return
    with store.blobs.writer(digest, len(raw)) as writer:
        writer.write(raw)
        writer.commit()
