"""Answering a registry's challenge: who may read or write, and with which token.

The challenge is RFC 9110's WWW-Authenticate; tokens are got as distribution's "token
authentication" page describes. Without credentials the token is an anonymous one. A challenge
comes from a stranger: it never decides where credentials go, nor what a token is asked for.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode, urlsplit

from ..errors import AccessDenied, CellblockError, InvalidAnswer
from ..oci.jsonobject import JsonObject
from .origin import Origin
from .transport import Broken, Response, Transport, unavailable

_MAX_CHALLENGE = 8 * 2**10
_MAX_TOKEN_ANSWER = 2**20
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?:\s+|$|(?=,))")
_PARAMETER = re.compile(rf'[\s,]*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SENDABLE = re.compile(r"[\x21-\x7e]{1,65536}")


@dataclass(frozen=True)
class Challenge:
    """One challenge: a lower-case scheme (``bearer``, ``basic``) and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Credentials:
    """A user name and a password or access token; its repr shows neither.

    ``kind`` tells an identity token, which only a token server takes, from a password.
    """

    username: str
    password: str
    kind: Literal["password", "identity"] = "password"

    @property
    def header(self) -> str:
        """The value of a Basic Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"


# Finds the credentials for one registry; None where there are none.
Lookup = Callable[[], Credentials | None]


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
    """Knows the Authorization header for one repository of one server; shared by threads.

    Credentials are looked up when they are asked for first. They are sent to the registry itself,
    to a token server on its own origin and to those the user has named for it; any other token
    server is asked anonymously. Without a ``repository`` a token is asked for no purpose but
    to tell whether the credentials are right, or with ``listing`` to read the registry's
    catalogue. With ``writing`` the token is to write there too, and to read the repositories
    ``beside`` it.
    """

    def __init__(
        self,
        transport: Transport,
        registry: str,
        repository: str | None,
        credentials: Credentials | Lookup | None,
        *,
        writing: bool = False,
        beside: tuple[str, ...] = (),
        listing: bool = False,
    ) -> None:
        self._transport, self._name, self._repository = transport, registry, repository
        self._writing, self._beside, self._listing = writing, beside, listing
        self._registry = transport.trust.origin(registry)
        self._lookup = credentials if callable(credentials) else lambda: credentials
        self._lock = threading.Lock()
        self._header: str | None = None
        self._trouble = ""
        self.username: str | None = None
        self.withheld_from: Origin | None = None

    @property
    def advice(self) -> str:  # noqa: PLR0911 - one for each case
        """What may be the matter when access is denied, and what to do."""
        if self._trouble:
            return f"no credentials were sent, for {self._trouble}"
        if self.withheld_from is not None:
            return (
                f"the credentials were withheld from its token server {self.withheld_from}; name "
                "that under registries.token-servers in the config file if it may have them"
            )
        name, user = self._name, self.username
        if self._listing:
            return f"log in to {name} first" if user is None else f"it is not open to {user}"
        if self._repository is None:
            return "check user name and password"
        if self._writing and user is None:
            return f"log in to {name} first, as one who may push to {self._repository}"
        if self._writing:
            return f"{user} may not push to {self._repository}"
        if user is None:
            return f"the image may not exist, or be private: then log in to {name} first"
        return f"the image may not exist, or not be open to {user}"

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
        if "basic" in by_scheme:
            credentials = self._credentials()
            if credentials is None or credentials.kind == "identity":
                raise self._denied("it wants a user name and password")
            return credentials.header
        raise self._denied("it wants a kind of authentication that is not supported")

    def _credentials(self) -> Credentials | None:
        """Look the credentials up; what kept them away is remembered for the error, if one comes.

        A public image is to be had without them, also where a credential helper is broken.
        """
        try:
            found = self._lookup()
        except CellblockError as error:
            self._trouble = str(error)
            return None
        self._trouble = ""
        self.username = found.username if found is not None else None
        return found

    def _token(self, challenge: Challenge) -> str:
        realm = challenge.parameters.get("realm", "")
        origin = Origin.of_url(realm)
        if not self._transport.trust.may_refer(self._registry, origin):
            raise InvalidAnswer(
                f"registry {self._registry} sends to {origin} for a token: plain http is refused"
            )
        credentials = self._credentials()
        if credentials is not None and not self._transport.trust.may_learn(self._name, origin):
            self.withheld_from, credentials = origin, None
        service = challenge.parameters.get("service")
        asked = {"service": service} if service is not None else {}
        with self._ask_for_token(realm, asked, credentials) as response:
            return self._read_token(response)

    def _ask_for_token(
        self, realm: str, asked: dict[str, str], credentials: Credentials | None
    ) -> Response:
        accept, scopes = {"Accept": "application/json"}, self._scopes()
        if credentials is not None and credentials.kind == "identity":
            # distribution's "Docker Registry v2 authentication using OAuth2"
            form = {
                **asked,
                **({"scope": " ".join(scopes)} if scopes else {}),
                "grant_type": "refresh_token",
                "client_id": "cellblock",
                "refresh_token": credentials.password,
            }
            return self._transport.open(
                realm,
                {**accept, "Content-Type": "application/x-www-form-urlencoded"},
                None,
                method="POST",
                body=urlencode(form).encode("ascii"),
            )
        header = None
        if credentials is not None:
            header = credentials.header
            asked = {**asked, "account": credentials.username}
        query = urlencode([*(("scope", scope) for scope in scopes), *asked.items()])
        url = realm + ("&" if urlsplit(realm).query else "?") + query
        return self._transport.open(url, accept, header)

    def _scopes(self) -> list[str]:
        if self._listing:
            return ["registry:catalog:*"]
        if self._repository is None:
            return []
        actions = "pull,push" if self._writing else "pull"
        beside = (f"repository:{name}:pull" for name in self._beside)
        return [f"repository:{self._repository}:{actions}", *beside]

    def _read_token(self, response: Response) -> str:
        server = Origin.of_url(response.url)
        if response.status in (400, 401, 403, 404, 405):
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
        what = f"access to {self._repository} on" if self._repository is not None else "log-in to"
        what = "the catalogue of" if self._listing else what
        return AccessDenied(f"{what} {self._registry} is denied: {reason}; {self.advice}")
