"""One repository of a registry: its addresses, who asks there, and what its refusals mean.

It answers the challenges of a registry and names its errors; what is asked for is decided by
:mod:`.client`, which reads, and :mod:`.upload`, which writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import AccessDenied, ImageNotFound, InvalidAnswer, RegistryError
from ..oci.jsonobject import JsonObject
from ..oci.reference import Reference
from .auth import Authenticator, Credentials, Lookup, parse_challenges
from .origin import Origin
from .transport import Broken, Response, Transport

_MAX_ERROR = 64 * 2**10


class Repository:
    """Asks one repository, as whoever the credentials say; shared by threads.

    ``mirror`` (``host[:port][/prefix]``) is asked instead of the registry, where it is given;
    ``credentials`` are those for the server that is asked. With ``writing`` leave to write is
    asked for too, and to read the repositories ``beside`` it.
    """

    def __init__(
        self,
        transport: Transport,
        reference: Reference,
        credentials: Credentials | Lookup | None = None,
        *,
        mirror: str | None = None,
        writing: bool = False,
        beside: Iterable[str] = (),
    ) -> None:
        self.transport, self.name = transport, reference.name
        registry, _, prefix = (mirror or reference.registry).partition("/")
        repository = f"{prefix}/{reference.repository}" if prefix else reference.repository
        self.origin = transport.trust.origin(registry)
        self.base = f"{self.origin}/v2/{repository}"
        self._auth = Authenticator(
            transport, registry, repository, credentials, writing=writing, beside=tuple(beside)
        )

    def open(
        self, url: str, headers: Mapping[str, str], *, method: str = "GET", body: bytes = b""
    ) -> Response:
        """Return the answer, having answered at most one challenge on the way.

        The request may be sent several times. Raises as :meth:`.Transport.open` does,
        AccessDenied.
        """
        sent = self._header_for(url)
        response = self.transport.open(url, headers, sent, method=method, body=body)
        if self._is_challenge(response):
            header = self._answer(response, sent)
            response = self.transport.open(url, headers, header, method=method, body=body)
        return response

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: Iterable[bytes]
    ) -> Response:
        """Return the answer to a request that is sent once.

        Another origin than the registry's is sent no credentials. A challenge is answered for the
        next attempt. Raises as :meth:`.Transport.send` does, AccessDenied.
        """
        sent = self._header_for(url)
        response = self.transport.send(method, url, headers, sent, body)
        if self._is_challenge(response):
            self._answer(response, sent)
            raise Broken("it asked once more who is there")
        return response

    def failure(self, response: Response, wanted: str = "") -> RegistryError | ImageNotFound:
        """Return what an unsuccessful answer means to people.

        ``wanted`` is the tag or digest that was to be read, if there was one.
        """
        status, server = response.status, Origin.of_url(response.url)
        code, message = _first_error(response)
        said = f" ({message})" if message else ""
        if status in (401, 403):
            return AccessDenied(
                f"access to {self.name} on {server} is denied{said}: {self._auth.advice}"
            )
        if code == "NAME_UNKNOWN":
            return ImageNotFound(f"{server} has no image {self.name}: check the name")
        if status == 404 and wanted and not wanted.startswith("sha256:"):
            # Also of a repository that does not exist many registries say MANIFEST_UNKNOWN.
            return ImageNotFound(
                f"{self.name} has no tag {wanted!r} on {server}: check the name and the tag"
            )
        if status == 404 and wanted:
            return ImageNotFound(f"{self.name} has no {wanted} on {server}: it may be deleted")
        asked = "asked for" if wanted else "sent"
        return InvalidAnswer(
            f"{server} answered {status}{said} when {asked} {self.name}: is it an image registry?"
        )

    def _header_for(self, url: str) -> str | None:
        return self._auth.header if Origin.of_url(url) == self.origin else None

    def _is_challenge(self, response: Response) -> bool:
        return response.status == 401 and Origin.of_url(response.url) == self.origin

    def _answer(self, response: Response, sent: str | None) -> str:
        challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
        response.discard()
        return self._auth.answer(challenges, sent)


def _first_error(response: Response) -> tuple[str, str]:
    """Return code and message of a registry's error answer, empty where it is none."""
    try:
        body = response.read(_MAX_ERROR, "the error answer")
        errors = JsonObject.decode(body, "the error answer", _MAX_ERROR).members("errors", 100)
        if errors:
            return errors[0].text("code") or "", _printable(errors[0].text("message") or "")
    except (Broken, InvalidAnswer):
        pass
    return "", ""


def _printable(text: str) -> str:
    """Return a stranger's words in one short line that cannot steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text[:120]).strip()
