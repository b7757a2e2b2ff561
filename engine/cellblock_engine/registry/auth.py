"""Answering a registry's challenge: who may read, and with which token.

The challenge is RFC 9110's WWW-Authenticate; tokens are got as distribution's "token
authentication" page describes. Without credentials the token is an anonymous one. A challenge
comes from a stranger: it never decides where credentials go, nor what a token is asked for.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from ..errors import AccessDenied, InvalidAnswer
from ..oci.jsonobject import JsonObject
from .origin import Origin
from .transport import Broken, Response, Transport, unavailable

_MAX_CHALLENGE = 8 * 2**10
_MAX_TOKEN_ANSWER = 2**20
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?:\s+|$|(?=,))")
_PARAMETER = re.compile(rf'[\s,]*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SENDABLE = re.compile(r"[\x21-\x7e]{1,65536}")
# Docker Hub's tokens come from another host; this one pair is known, no other is trusted.
_KNOWN_REALMS = {
    Origin("https", "registry-1.docker.io", 443): Origin("https", "auth.docker.io", 443),
}


@dataclass(frozen=True)
class Challenge:
    """One challenge: a lower-case scheme (``bearer``, ``basic``) and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Credentials:
    """A user name and a password or access token; its repr shows neither."""

    username: str
    password: str

    @property
    def header(self) -> str:
        """The value of a Basic Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"


def parse_challenges(headers: Sequence[str]) -> tuple[Challenge, ...]:
    """Return the challenges of all WWW-Authenticate headers; what cannot be read is left out."""
    found: list[Challenge] = []
    for header in headers:
        text, position = header[:_MAX_CHALLENGE], 0
        parameters: dict[str, str] | None = None
        while position < len(text):
            match = _PARAMETER.match(text, position) if parameters is not None else None
            if match is not None and parameters is not None:
                quoted, bare = match[2], match[3]
                value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters.setdefault(match[1].lower(), value)
            else:
                match = _SCHEME.match(text, position)
                if match is None:
                    break
                parameters = {}
                found.append(Challenge(match[1].lower(), parameters))
            position = match.end()
    return tuple(found)


class Authenticator:
    """Knows the Authorization header for reading one repository; shared by threads.

    ``credentials`` are sent to the registry itself, or to a token server on the registry's own
    origin; any other token server is asked anonymously.
    """

    def __init__(
        self,
        transport: Transport,
        registry: Origin,
        repository: str,
        credentials: Credentials | None,
    ) -> None:
        self._transport, self._registry, self._repository = transport, registry, repository
        self._credentials = credentials
        self._lock = threading.Lock()
        self._header: str | None = None

    @property
    def header(self) -> str | None:
        """The header to send; None until the registry has challenged."""
        return self._header

    def answer(self, challenges: tuple[Challenge, ...], refused: str | None) -> str:
        """Return the header that answers a 401 to a request sent with ``refused``.

        When several threads were refused the same header, the first one gets the new one for
        all. Raises AccessDenied, InvalidAnswer, RegistryUnavailable, and Stopped.
        """
        with self._lock:
            if self._header is None or self._header == refused:
                self._header = self._answer(challenges)
            return self._header

    def _answer(self, challenges: tuple[Challenge, ...]) -> str:
        by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if "bearer" in by_scheme:
            return f"Bearer {self._token(by_scheme['bearer'])}"
        if "basic" in by_scheme and self._credentials is not None:
            return self._credentials.header
        if "basic" in by_scheme:
            raise self._denied("it wants a user name and password")
        raise self._denied("it wants a kind of authentication that is not supported")

    def _token(self, challenge: Challenge) -> str:
        realm = challenge.parameters.get("realm", "")
        origin = Origin.of_url(realm)
        if not self._registry.may_refer_to(origin):
            raise InvalidAnswer(
                f"registry {self._registry} sends to {origin} for a token: plain http is refused"
            )
        trusted = origin in (self._registry, _KNOWN_REALMS.get(self._registry))
        credentials = self._credentials if trusted else None
        query = {"scope": f"repository:{self._repository}:pull"}
        if "service" in challenge.parameters:
            query["service"] = challenge.parameters["service"]
        url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(query)
        header = None if credentials is None else credentials.header
        with self._transport.open(url, {"Accept": "application/json"}, header) as response:
            return self._read_token(response)

    def _read_token(self, response: Response) -> str:
        server = Origin.of_url(response.url)
        if response.status in (400, 401, 403, 404):
            raise self._denied(f"the token server {server} answered {response.status}")
        if response.status != 200:
            raise unavailable(response.url, f"it answered {response.status} instead of a token")
        what = f"the token answer of {server}"
        try:
            raw = response.read(_MAX_TOKEN_ANSWER, what)
        except Broken as error:
            raise unavailable(response.url, str(error)) from error
        answer = JsonObject.decode(raw, what, _MAX_TOKEN_ANSWER)
        token = answer.text("token") or answer.text("access_token") or ""
        if _SENDABLE.fullmatch(token) is None:
            raise InvalidAnswer(f"{what} has no token that can be sent")
        return token

    def _denied(self, reason: str) -> AccessDenied:
        return AccessDenied(
            f"access to {self._repository} on {self._registry} is denied: {reason}; "
            "the image may not exist, or be private"
        )
