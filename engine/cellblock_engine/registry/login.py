"""Asking a registry whether credentials are right, without asking it for anything else."""

from __future__ import annotations

from contextlib import closing

from ..errors import AccessDenied, InvalidAnswer, InvalidInput
from ..oci.reference import DOCKER_HUB, parse_registry
from ..settings import Registries
from .auth import Authenticator, Credentials, parse_challenges
from .origin import Origin
from .patience import Patience
from .transport import Transport
from .trust import Trust

_MAX_SECRET = 16 * 2**10


def registry_of(text: str) -> str:
    """Return the registry that a person means to log in to: a host, or a URL as Docker takes it.

    Nothing means Docker Hub. Raises InvalidReference.
    """
    host = text.removeprefix("https://").removeprefix("http://").partition("/")[0]
    if host in ("", "registry-1.docker.io"):
        return DOCKER_HUB
    return parse_registry(host)


def check(
    registry: str,
    credentials: Credentials,
    registries: Registries,
    patience: Patience | None = None,
) -> None:
    """Return if ``registry`` accepts the credentials (distribution-spec, "Determining Support").

    Raises AccessDenied, RegistryUnavailable, InvalidAnswer, and InvalidInput for credentials that
    cannot be sent.
    """
    _check_words(credentials)
    with closing(Transport(patience or Patience(), Trust(registries))) as transport:
        origin = transport.trust.origin(registry)
        auth = Authenticator(transport, registry, None, credentials)
        url = f"{origin}/v2/"
        response = transport.open(url, {}, None)
        if response.status == 401 and Origin.of_url(response.url) == origin:
            challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
            response.discard()
            header = auth.answer(challenges, None)
            if auth.withheld_from is not None:
                raise AccessDenied(f"log-in to {origin} failed: {auth.advice}")
            response = transport.open(url, {}, header)
        with response:
            if response.status in (401, 403):
                raise AccessDenied(f"log-in to {origin} is denied: {auth.advice}")
            if response.status != 200:
                raise InvalidAnswer(
                    f"{origin} answered {response.status} to a log-in: is it an image registry?"
                )


def _check_words(credentials: Credentials) -> None:
    name, password = credentials.username, credentials.password
    if not name or not password:
        raise InvalidInput("a log-in needs a user name and a password")
    if ":" in name or not name.isprintable():
        raise InvalidInput("the user name has a character that cannot be sent: use no ':'")
    if len(name) + len(password) > _MAX_SECRET or "\0" in password or "\n" in password:
        raise InvalidInput("the password cannot be sent: it is too long, or has several lines")
