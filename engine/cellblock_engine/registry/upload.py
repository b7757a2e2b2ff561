"""Writing to one repository of a registry: OCI's distribution-spec, the "push" part.

A blob goes in one request, as Docker's does; where that breaks off, the registry is asked how much
it has and is sent the rest. What it answers is believed only as far as it costs a bounded number
of attempts: in the end it must have the blob by its digest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import urlencode, urlsplit

from ..errors import (
    DigestMismatch,
    ImageNotFound,
    InvalidAnswer,
    InvalidDigest,
    RegistryError,
)
from ..oci.digest import Digest
from ..oci.manifest import Descriptor
from .origin import Origin
from .repository import Repository
from .transport import TRANSIENT, Broken, Response, answered, unavailable

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_STREAM = {"Content-Type": "application/octet-stream"}
_WORTH_IT = 2**20  # an attempt that brought this much on was not in vain
_MOST_ATTEMPTS = 100  # of one blob, whatever they brought

# Yields a blob's content from an offset on, in small pieces.
Read = Callable[[int], Iterator[bytes]]


class Uploader:
    """Writes blobs and manifests into a repository; may be shared by threads."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._uploads = f"{repository.base}/blobs/uploads/"

    def has(self, digest: Digest) -> bool:
        """Tell whether the repository has a blob.

        Raises AccessDenied, RegistryUnavailable, InvalidAnswer, Stopped.
        """
        url = f"{self._repository.base}/blobs/{digest}"
        with self._repository.open(url, {}, method="HEAD") as response:
            if response.status in (200, 404):
                return response.status == 200
            raise self._repository.failure(response, str(digest))

    def mount(self, digest: Digest, source: str) -> str | None:
        """Let the repository have a blob of another one of its registry.

        Returns None where it now has, else where the blob can be sent to. Raises as :meth:`has`.
        """
        query = urlencode({"mount": str(digest), "from": source})
        with self._repository.open(f"{self._uploads}?{query}", {}, method="POST") as response:
            if response.status == 201:
                return None
            if response.status == 202:
                return self._next(response)
        return self._begin()  # leave to read there may be all that lacks

    def blob(self, descriptor: Descriptor, read: Read, location: str | None = None) -> None:
        """Send a blob, to the upload at ``location`` where one was begun.

        Raises RegistryUnavailable, AccessDenied, InvalidAnswer, Stopped.
        """
        digest, size = descriptor.digest, descriptor.size
        transport = self._repository.transport
        location, offset = location or self._begin(), 0
        best = failures = 0
        for _ in range(_MOST_ATTEMPTS):
            problem = "it has not taken all"
            try:
                if offset < size:
                    location, offset = self._append(location, offset, size, read)
                if offset == size:
                    self._finish(location, digest)
                    return
            except Broken as error:
                problem = str(error)
            failures = 1 if offset - best >= _WORTH_IT else failures + 1
            best = max(best, offset)
            if failures >= transport.patience.attempts:
                break
            transport.wait(failures - 1)
            if self.has(digest):  # the answer alone was lost
                return
            location, offset = self._where(location, size) or (self._begin(), 0)
        sent = f"after {best} of {size} bytes of blob {digest}"
        raise unavailable(self._uploads, f"{problem} {sent}, {failures} times")

    def manifest(self, raw: bytes, media_type: str, wanted: str) -> None:
        """Let a tag name the manifest ``raw``, whose blobs are all there.

        Raises DigestMismatch where the registry takes it for another, and as :meth:`blob`.
        """
        url = f"{self._repository.base}/manifests/{wanted}"
        headers = {"Content-Type": media_type}
        with self._repository.open(url, headers, method="PUT", body=raw) as response:
            if response.status not in (200, 201, 202):
                raise self._refused(response)
            digest = Digest.of(raw)
            try:
                found = Digest.parse(response.headers.get("Docker-Content-Digest", ""))
            except InvalidDigest:
                return
            if found != digest:
                raise DigestMismatch(
                    f"{self._repository.origin} took the manifest {digest} for {found}: what it "
                    f"serves as {self._repository.name}:{wanted} is not what was pushed"
                )

    def _begin(self) -> str:
        """Return where a new upload goes."""
        with self._repository.open(self._uploads, {}, method="POST") as response:
            if response.status != 202:
                raise self._refused(response)
            return self._next(response)

    def _append(self, location: str, offset: int, size: int, read: Read) -> tuple[str, int]:
        """Send the rest from ``offset`` on; return where to go on, and what has arrived."""
        headers = {**_STREAM, "Content-Length": str(size - offset)}
        if offset:
            headers["Content-Range"] = f"{offset}-{size - 1}"
        with self._repository.send("PATCH", location, headers, read(offset)) as response:
            self._check(response, (201, 202, 204))
            return self._next(response, location), _arrived(response, size, unknown=size)

    def _finish(self, location: str, digest: Digest) -> None:
        """Close an upload, which is then a blob."""
        url = location + ("&" if urlsplit(location).query else "?") + f"digest={digest}"
        headers = {**_STREAM, "Content-Length": "0"}
        with self._repository.send("PUT", url, headers, ()) as response:
            self._check(response, (200, 201, 204))

    def _where(self, location: str, size: int) -> tuple[str, int] | None:
        """Return where an upload goes on and at which offset; None for one that is lost."""
        with self._repository.open(location, {}) as response:
            if response.status not in (200, 202, 204):
                return None
            offset = _arrived(response, size, unknown=0)
            # "0-0" is both nothing and one byte; then it is begun anew.
            return (self._next(response, location), offset) if offset > 1 else None

    def _next(self, response: Response, same: str = "") -> str:
        """Return where the registry wants the next request of an upload; raises InvalidAnswer."""
        location = response.headers.get("Location", "") or same
        return self._repository.transport.refer(response.url, location)

    def _check(self, response: Response, expected: tuple[int, ...]) -> None:
        """Raise Broken for an answer that another attempt may better, what it means for others."""
        if response.status in expected:
            response.discard()
        elif response.status in TRANSIENT or response.status in (400, 404, 416):
            # 400: it read other bytes than were sent; 404: it has lost the upload.
            reason = answered(response)
            response.discard()
            raise Broken(reason)
        else:
            raise self._refused(response)

    def _refused(self, response: Response) -> RegistryError | ImageNotFound:
        if response.status in (405, 501):
            return InvalidAnswer(f"{Origin.of_url(response.url)} takes no images: it is read-only")
        return self._repository.failure(response)


def _arrived(response: Response, size: int, *, unknown: int) -> int:
    """Return how much of an upload has arrived, ``unknown`` where it does not say."""
    text = response.headers.get("Range", "")
    if not text:
        return unknown
    match = _RANGE.fullmatch(text)
    found = int(match[1]) + 1 if match else size + 1
    if found > size:
        raise InvalidAnswer(
            f"{Origin.of_url(response.url)} says that {text[:40]!r} of {size} bytes have arrived"
        )
    return found
