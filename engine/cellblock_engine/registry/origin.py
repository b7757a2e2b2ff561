"""Origins (scheme, host and port), and which of them may be talked to; no I/O.

Plain http is for this machine only: an http answer from anywhere else can be forged by anyone on
the way. Names are compared as written and never looked up here.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import InvalidAnswer
from ..oci.reference import DOCKER_HUB

_PORTS = {"http": 80, "https": 443}
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request goes; an IPv6 host has no brackets here. ``str()`` is a URL without path."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of_url(cls, url: str) -> Origin:
        """Return the origin of an absolute http or https URL.

        Raises InvalidAnswer: URLs are what servers answer with. One that carries a user name is
        refused, for it reads as if it went elsewhere.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidAnswer(f"the registry refers to {url[:100]!r}: {error}") from error
        if parts.scheme not in _PORTS or not host or "@" in parts.netloc:
            raise InvalidAnswer(
                f"the registry refers to {url[:100]!r}, which is not an http or https address"
            )
        return cls(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)

    @classmethod
    def of_registry(cls, registry: str) -> Origin:
        """Return where the registry of a reference is served.

        ``docker.io`` is served by another host than its name says. Raises InvalidAnswer.
        """
        if registry == DOCKER_HUB:
            return cls("https", "registry-1.docker.io", 443)
        secure = cls.of_url(f"https://{registry}")
        return cls.of_url(f"http://{registry}") if secure.is_loopback else secure

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine: 127.0.0.0/8, ::1 or ``localhost``."""
        if self.host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return any(address in network for network in _LOOPBACK)

    def may_refer_to(self, other: Origin) -> bool:
        """Tell whether an answer from here may send a client on to ``other``.

        To https always; to plain http only from plain http, and only on this machine.
        """
        if other.scheme == "https":
            return True
        return self.scheme == "http" and self.is_loopback and other.is_loopback

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"
