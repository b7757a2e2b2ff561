"""Image references, read and normalised as Docker does; no I/O.

The grammar is that of distribution's ``reference`` package; the short forms (no registry means
Docker Hub, no namespace there means ``library``, no tag means ``latest``) are Docker's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidDigest, InvalidReference
from .digest import Digest

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library"
_MAX_REPOSITORY = 255  # NameTotalLengthMax of distribution/reference
_MAX_REGISTRY = 253 + 6  # a host name (RFC 1035) and ":65535"
_MAX_TEXT = _MAX_REGISTRY + 1 + _MAX_REPOSITORY + 1 + 128 + 1 + 71

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::([0-9]{{1,5}}))?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is: ``registry/repository[:tag][@digest]``, fully spelled out.

    ``str()`` gives the canonical form, which :meth:`parse` reads back to an equal reference.
    With a digest, the tag is only a remark: the digest decides what is pulled.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return what ``text`` refers to; ``python:3.12-slim`` is Docker Hub's.

        Raises InvalidReference, whose message says which part is wrong.
        """
        if len(text) > _MAX_TEXT:
            raise InvalidReference(f"reference {text[:40]!r}... is too long: at most {_MAX_TEXT}")
        name, at, digest_text = text.partition("@")
        digest = _read_digest(digest_text, text) if at else None
        name, tag = _split_tag(name)
        if tag is not None and _TAG.fullmatch(tag) is None:
            raise _invalid(text, f"the tag {tag!r} must be 1 to 128 of letters, digits, '_.-'")
        registry, repository = _split_registry(name)
        if _ID.fullmatch(text):
            raise _invalid(text, "64 hexadecimal digits are an image id, not a repository")
        _check(text, registry, repository)
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(registry, repository, tag, digest)

    def __lt__(self, other: Reference) -> bool:
        """Order as text: a tag or digest may be missing."""
        return str(self) < str(other)

    @property
    def name(self) -> str:
        """``registry/repository``, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The shortest form a person would write for it, as Docker prints it."""
        for short in (self.repository.removeprefix(f"{_OFFICIAL}/"), self.repository):
            if _split_registry(short) == (self.registry, self.repository):
                return short + self._suffix
        return str(self)

    @property
    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")

    def __str__(self) -> str:
        return self.name + self._suffix


def parse_registry(text: str) -> str:
    """Return the name of a registry as references have it: ``host.domain`` or ``host:port``.

    Docker Hub's other name becomes ``docker.io``. Raises InvalidReference.
    """
    registry = DOCKER_HUB if text == f"index.{DOCKER_HUB}" else text
    host = _REGISTRY.fullmatch(registry)
    if (
        host is None
        or not _is_registry(f"{registry}/")
        or len(registry) > _MAX_REGISTRY
        or int(host[1] or 0) > 65535
    ):
        raise InvalidReference(
            f"{text[:80]!r} is not a registry: write host.domain or host:port, as quay.io"
        )
    return registry


def _invalid(text: str, reason: str) -> InvalidReference:
    return InvalidReference(f"{text[:80]!r} is not an image reference: {reason}")


def _read_digest(digest: str, text: str) -> Digest:
    try:
        return Digest.parse(digest)
    except InvalidDigest as error:
        raise _invalid(text, str(error)) from error


def _split_tag(name: str) -> tuple[str, str | None]:
    """Split at the last colon, unless a slash follows: then it belongs to the registry's port."""
    head, colon, tail = name.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (name, None)


def _is_registry(name: str) -> bool:
    """Tell whether Docker takes the first component of ``name`` for a registry."""
    first, slash, _ = name.partition("/")
    return bool(slash) and (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    )


def _split_registry(name: str) -> tuple[str, str]:
    registry, repository = name.split("/", 1) if _is_registry(name) else (DOCKER_HUB, name)
    if registry == f"index.{DOCKER_HUB}":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"{_OFFICIAL}/{repository}"
    return registry, repository


def _check(text: str, registry: str, repository: str) -> None:
    host = _REGISTRY.fullmatch(registry)
    if host is None or len(registry) > _MAX_REGISTRY or int(host[1] or 0) > 65535:
        raise _invalid(text, f"{registry!r} is not a registry: write host or host:port")
    if len(repository) > _MAX_REPOSITORY:
        raise _invalid(text, f"the repository is longer than {_MAX_REPOSITORY}")
    if _REPOSITORY.fullmatch(repository) is None:
        if _REPOSITORY.fullmatch(repository.lower()) is not None:
            raise _invalid(text, "the repository must be lower-case")
        raise _invalid(text, "write [registry/]repository[:tag][@digest]")
