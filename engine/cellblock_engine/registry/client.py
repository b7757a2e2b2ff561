"""Reading one repository of a registry: OCI's distribution-spec, the "pull" part.

What it returns is what was asked for: manifests are hashed here, blobs by whoever writes them.
URLs that descriptors carry are never followed.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from ..errors import DigestMismatch, InvalidAnswer, InvalidDigest
from ..oci.digest import Digest
from ..oci.manifest import INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES, Descriptor
from ..oci.reference import Reference
from .auth import Credentials, Lookup
from .origin import Origin
from .repository import Repository
from .transport import Broken, Response, Transport, unavailable

_ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
_PROGRESS = 2**20  # a connection that brought this much was worth another attempt


@dataclass(frozen=True)
class Answer:
    """A manifest or index as received; ``digest`` is that of ``raw``."""

    raw: bytes
    media_type: str | None
    digest: Digest


class RegistryClient:
    """Reads the manifests and blobs of one repository; may be shared by threads.

    ``credentials`` and ``mirror`` are as in :class:`.repository.Repository`.
    """

    def __init__(
        self,
        transport: Transport,
        reference: Reference,
        credentials: Credentials | Lookup | None = None,
        *,
        mirror: str | None = None,
    ) -> None:
        self._transport = transport
        self._repository = Repository(transport, reference, credentials, mirror=mirror)

    def manifest(self, wanted: str | Digest) -> Answer:
        """Return the manifest or index that a tag or digest names, verified.

        Raises ImageNotFound, AccessDenied, DigestMismatch, InvalidAnswer, RegistryUnavailable;
        Stopped.
        """
        url = f"{self._repository.base}/manifests/{wanted}"
        raw, media_type, promised = self._manifest(url, wanted)
        digest = Digest.of(raw)
        expected = wanted if isinstance(wanted, Digest) else promised
        if expected is not None and expected != digest:
            raise DigestMismatch(
                f"{self._repository.origin} served a manifest of {self._repository.name} with "
                f"digest {digest} instead of {expected}: it is damaged or forged"
            )
        return Answer(raw, media_type, digest)

    def blob(self, descriptor: Descriptor, start: int = 0) -> Generator[bytes, None, None]:
        """Yield the content of a blob in chunks, never more than its size; the reader verifies.

        ``start`` is how many bytes the reader has already; they are not yielded again.
        A connection that breaks is taken up again where it broke. Raises DigestMismatch when
        there is more or less than promised, RegistryUnavailable when it breaks too often, and
        whatever :meth:`manifest` raises.
        """
        url = f"{self._repository.base}/blobs/{descriptor.digest}"
        received, failures = start, 0
        if start and start == descriptor.size:
            return  # a server has no answer to a range without bytes
        while True:
            started, problem = received, ""
            with self._get(url, _range(received), str(descriptor.digest)) as response:
                skip = self._check_length(response, descriptor, received)
                try:
                    for piece in response.chunks():
                        chunk = piece[skip:]
                        skip -= len(piece) - len(chunk)
                        received += len(chunk)
                        if received > descriptor.size:
                            raise _wrong_size(descriptor, f"more than {descriptor.size}")
                        if chunk:
                            yield chunk
                except Broken as error:
                    problem = str(error)
                else:
                    if received == descriptor.size:
                        return
                    raise _wrong_size(descriptor, f"{received}")
            failures = 1 if received - started >= _PROGRESS else failures + 1
            if failures >= self._transport.patience.attempts:
                at = f"after {received} of {descriptor.size} bytes of blob {descriptor.digest}"
                raise unavailable(url, f"{problem} {at}, {failures} times")
            self._transport.wait(failures - 1)

    def _manifest(self, url: str, wanted: str | Digest) -> tuple[bytes, str | None, Digest | None]:
        problem = ""
        for attempt in range(self._transport.patience.attempts):
            if attempt:
                self._transport.wait(attempt - 1)
            with self._get(url, {"Accept": _ACCEPT}, str(wanted)) as response:
                if (response.length or 0) > MAX_MANIFEST_BYTES:
                    raise InvalidAnswer(
                        f"the manifest from {self._repository.origin} has {response.length} bytes, "
                        f"more than the {MAX_MANIFEST_BYTES} allowed"
                    )
                try:
                    raw = response.read(MAX_MANIFEST_BYTES, "the manifest")
                except Broken as error:
                    problem = str(error)
                    continue
                return raw, response.headers.get("Content-Type"), _promised(response)
        raise unavailable(url, problem)

    def _get(self, url: str, headers: dict[str, str], wanted: str) -> Response:
        """Return a successful answer."""
        response = self._repository.open(url, headers)
        if response.status in (200, 206):
            return response
        with response:
            raise self._repository.failure(response, wanted)

    @staticmethod
    def _check_length(response: Response, descriptor: Descriptor, received: int) -> int:
        """Return how many bytes of the body are already there, having checked its promises."""
        skip = received
        if response.status == 206:
            skip = 0
            start = response.headers.get("Content-Range", "").removeprefix("bytes ")
            if not start.startswith(f"{received}-"):
                raise InvalidAnswer(
                    f"{Origin.of_url(response.url)} continues blob {descriptor.digest} "
                    "at another place than asked"
                )
        expected = descriptor.size - received + skip
        if response.length is not None and response.length != expected:
            raise _wrong_size(descriptor, f"{response.length - skip + received}")
        return skip


def _range(received: int) -> dict[str, str]:
    return {"Range": f"bytes={received}-"} if received else {}


def _wrong_size(descriptor: Descriptor, found: str) -> DigestMismatch:
    return DigestMismatch(
        f"blob {descriptor.digest} has {found} bytes instead of {descriptor.size}: "
        "the registry's copy is damaged or forged"
    )


def _promised(response: Response) -> Digest | None:
    """Return the digest a registry announces; one of another algorithm promises nothing here."""
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
    except InvalidDigest:
        return None
