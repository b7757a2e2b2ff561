"""Searching a registry: by the index that Docker Hub and some others have, else by catalogue.

An index finds by words and tells of descriptions and stars (``/v1/search``, as ``docker search``
asks it); a catalogue is a list of names (distribution-spec's predecessor, "Listing Repositories"),
of which those are taken that have the term in them. Mirrors have no part: they are for pulls.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import urlencode

from ..errors import (
    AccessDenied,
    InvalidAnswer,
    InvalidInput,
    InvalidReference,
    RegistryError,
)
from ..oci.jsonobject import JsonObject
from ..oci.reference import DOCKER_HUB, Reference, parse_registry
from ..settings import Registries
from .auth import Authenticator, Credentials, parse_challenges
from .origin import Origin
from .patience import Patience
from .transport import Broken, Response, Transport, unavailable
from .trust import Trust

MOST_RESULTS = 100
_HUB_INDEX = "https://index.docker.io"
_LONGEST_TERM, _LONGEST_DESCRIPTION = 255, 300
_MAX_ANSWER = 2**20
_PAGE, _MOST_PAGES = 1000, 100  # 1000 is the most that Docker's registry gives
_MOST_S = 60.0
_Read = TypeVar("_Read")
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,]*\brel="?next"?')


@dataclass(frozen=True)
class FoundImage:
    """A repository of a registry, by the name to pull it by; the rest is its owner's word.

    What the registry does not tell is None.
    """

    name: str
    description: str | None
    stars: int | None
    official: bool | None
    pulls: int | None


def search(
    term: str,
    *,
    limit: int,
    registries: Registries,
    keyring: Callable[[str], Credentials | None] | None = None,
    patience: Patience | None = None,
) -> tuple[FoundImage, ...]:
    """Return what a registry has for ``[REGISTRY/]TERM``, at most ``limit``, in its own order.

    Raises InvalidInput, AccessDenied, RegistryUnavailable, InvalidAnswer, and RegistryError for
    a registry that cannot be searched.
    """
    if not 0 < limit <= MOST_RESULTS:
        raise InvalidInput(f"limit {limit} is out of range: 1 to {MOST_RESULTS}")
    registry, words = _split(term)
    with closing(Transport(patience or Patience(), Trust(registries))) as transport:
        if registry == DOCKER_HUB:
            return _asked_index(transport, _HUB_INDEX, registry, words, limit)
        try:
            origin = str(transport.trust.origin(registry))
            return _asked_index(transport, origin, registry, words, limit)
        except InvalidAnswer:
            lookup = (lambda: keyring(registry)) if keyring is not None else None
            catalogue = _Catalogue(transport, registry, lookup)
            return tuple(_matching(catalogue.names(), registry, words, limit))


def _split(text: str) -> tuple[str, str]:
    """Return the registry and the term in it. Raises InvalidInput."""
    first, slash, rest = text.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    registry, term = (parse_registry(first), rest) if has_registry else (DOCKER_HUB, text)
    if registry == DOCKER_HUB:
        term = term.removeprefix("library/")  # official ones have no other name there
        if not term.strip():
            raise InvalidInput("nothing to search for: give a word, or a registry and a slash")
    if len(term) > _LONGEST_TERM or not term.isprintable():
        raise InvalidInput(
            f"{term[:40]!r} cannot be searched for: give at most {_LONGEST_TERM} characters"
        )
    return registry, term


def _asked_index(
    transport: Transport, origin: str, registry: str, term: str, limit: int
) -> tuple[FoundImage, ...]:
    """Return what an index finds. Raises InvalidAnswer where there is none."""
    url = f"{origin}/v1/search?{urlencode({'q': term, 'n': limit})}"
    what = f"the answer of {Origin.of_url(origin)} to a search"

    def read(response: Response) -> bytes:
        if response.status != 200:
            raise InvalidAnswer(f"{Origin.of_url(origin)} answered {response.status} to a search")
        return response.read(_MAX_ANSWER, what)

    raw = _patiently(transport, url, None, read)
    results = JsonObject.decode(raw, what, _MAX_ANSWER)
    if "results" not in results:
        raise InvalidAnswer(f"{what} has no results")
    found: dict[str, FoundImage] = {}
    for result in results.members("results", 10 * MOST_RESULTS):
        name = _name(registry, result.text("name") or "")
        if name is not None:
            found.setdefault(name, _read(name, result))
    return tuple(found.values())[:limit]


def _read(name: str, result: JsonObject) -> FoundImage:
    def number(member: str) -> int | None:
        return result.integer(member) if member in result else None

    official = result.flag("is_official") if "is_official" in result else None
    description = _one_line(result.text("description") or "")
    return FoundImage(name, description, number("star_count"), official, number("pull_count"))


class _Catalogue:
    """The names of a registry's repositories, page by page, as whoever the credentials say."""

    def __init__(
        self, transport: Transport, registry: str, lookup: Callable[[], Credentials | None] | None
    ) -> None:
        self._transport, self._registry = transport, registry
        self._origin = transport.trust.origin(registry)
        self._auth = Authenticator(transport, registry, None, lookup, listing=True)

    def names(self) -> Iterator[str]:
        """Yield the names. Raises RegistryError and its kinds."""
        url: str | None = f"{self._origin}/v2/_catalog?n={_PAGE}"
        ends, what = time.monotonic() + _MOST_S, f"the catalogue of {self._origin}"
        seen: set[str] = set()
        while url is not None:
            if len(seen) == _MOST_PAGES or url in seen or time.monotonic() > ends:
                raise InvalidAnswer(
                    f"{what} does not come to an end within {_MOST_PAGES} pages and "
                    f"{_MOST_S:g} s: search it where it has a web site"
                )
            seen.add(url)
            raw, following = self._page(url, what)
            yield from JsonObject.decode(raw, what, _MAX_ANSWER).texts("repositories")
            url = following

    def _page(self, url: str, what: str) -> tuple[bytes, str | None]:
        refused: tuple[str, ...] | None = None

        def read(response: Response) -> tuple[bytes, str | None]:
            nonlocal refused
            if response.status == 401 and Origin.of_url(response.url) == self._origin:
                refused = tuple(response.headers.getlist("WWW-Authenticate"))
                return b"", None
            if response.status != 200:
                raise self._failure(response)
            return response.read(_MAX_ANSWER, what), self._next(url, response)

        sent = self._auth.header
        answer = _patiently(self._transport, url, sent, read)
        if refused is None:
            return answer
        header = self._auth.answer(parse_challenges(refused), sent)
        refused = None
        answer = _patiently(self._transport, url, header, read)
        if refused is not None:
            raise self._denied()
        return answer

    def _next(self, url: str, response: Response) -> str | None:
        """Return where the next page is, on the same server. Raises InvalidAnswer."""
        link = _NEXT.search(", ".join(response.headers.getlist("Link"))[: 2**14])
        if link is None:
            return None
        following = self._transport.refer(url, link[1])
        if Origin.of_url(following) != self._origin:
            raise InvalidAnswer(
                f"the catalogue of {self._origin} goes on at {Origin.of_url(following)}, "
                "another server"
            )
        return following

    def _failure(self, response: Response) -> RegistryError:
        if response.status in (401, 403):
            return self._denied()
        return RegistryError(
            f"registry {self._registry} cannot be searched: it has no index, and answered "
            f"{response.status} when asked for its catalogue"
        )

    def _denied(self) -> AccessDenied:
        return AccessDenied(f"the catalogue of {self._origin} is denied: {self._auth.advice}")


def _matching(names: Iterator[str], registry: str, words: str, limit: int) -> Iterator[FoundImage]:
    """Yield those of the names that have the words in them; stop asking when there are enough."""
    wanted = words.lower()
    found: set[str] = set()
    for each in names:
        name = _name(registry, each) if wanted in each.lower() else None
        if name is None or name in found:
            continue
        found.add(name)
        yield FoundImage(name, None, None, None, None)
        if len(found) == limit:
            return


def _patiently(
    transport: Transport, url: str, sent: str | None, read: Callable[[Response], _Read]
) -> _Read:
    """Return what ``read`` makes of the answer, asked for again where it breaks off."""
    problem = ""
    for attempt in range(transport.patience.attempts):
        if attempt:
            transport.wait(attempt - 1)
        with transport.open(url, {"Accept": "application/json"}, sent) as response:
            try:
                return read(response)
            except Broken as error:
                problem = str(error)
    raise unavailable(url, problem)


def _name(registry: str, told: str) -> str | None:
    """Return the name to pull by what a registry calls so; None if nothing can be called so."""
    repository = told.removeprefix(f"{registry}/")
    if ":" in repository or "@" in repository:
        return None
    try:
        reference = Reference.parse(f"{registry}/{repository}")
    except InvalidReference:
        return None
    return replace(reference, tag=None).familiar


def _one_line(text: str) -> str:
    """Return a stranger's words in one line that cannot steer a terminal."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * 2**10])
    return " ".join(shown.split())[:_LONGEST_DESCRIPTION]
