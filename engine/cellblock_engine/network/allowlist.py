"""Which hosts an off-line container may reach, in words: ``pypi.org``, ``*.example.org:8443``.

Words only: names are compared as they are asked for, and never resolved. Which addresses they may
lead to is a question for :mod:`.addresses`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidInput

_HTTPS_PORT = 443
_LONGEST_NAME = 253  # RFC 1035, section 3.1, without the root's empty label
_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
# The last label begins with a letter: what does not may be an address (127.1, 0x7f000001).
_NAME = rf"(?:{_LABEL}\.)*(?=[a-z]){_LABEL}"
_CASELESS = re.ASCII | re.IGNORECASE
_PATTERN = re.compile(rf"(\*\.)?({_NAME})(?::([0-9]{{1,5}}))?(/private)?", _CASELESS)
_TARGET = re.compile(rf"((?:{_LABEL}\.)*{_LABEL})\.?:([0-9]{{1,5}})", _CASELESS)


@dataclass(frozen=True)
class AllowedHost:
    """A host, or with ``below`` all hosts below a domain, at one port.

    ``private``: it may also be this machine, or in a network that is not the internet.
    """

    name: str
    port: int = _HTTPS_PORT
    below: bool = False
    private: bool = False

    def admits(self, host: str, port: int) -> bool:
        """Return whether this is the host and port, in lower case, that somebody asks for."""
        if port != self.port:
            return False
        return host.endswith(f".{self.name}") if self.below else host == self.name

    def __str__(self) -> str:
        """Return it as :func:`parse_allowed_host` reads it, its port spelled out."""
        before, after = "*." if self.below else "", "/private" if self.private else ""
        return f"{before}{self.name}:{self.port}{after}"


def parse_allowed_host(text: str) -> AllowedHost:
    """Return what ``[*.]NAME[:PORT][/private]`` means; the port is 443 if none is given.

    Raises InvalidInput for addresses and for what is not of this form.
    """
    found = _PATTERN.fullmatch(text)
    if found is None or len(found[2]) > _LONGEST_NAME:
        raise InvalidInput(
            f"allowed host {text!r} is not valid: write a name, not an address, such as pypi.org, "
            "*.example.org or localhost:8080/private"
        )
    below, name, private = bool(found[1]), found[2].lower(), bool(found[4])
    port = int(found[3] or _HTTPS_PORT)
    if not 0 < port < 1 << 16:
        raise InvalidInput(f"allowed host {text!r} is not valid: ports are 1 to 65535")
    if below and ("." not in name or private):
        raise InvalidInput(
            f"allowed host {text!r} is too wide: *. goes before a domain such as example.org, and "
            "/private after a whole name"
        )
    return AllowedHost(name, port, below, private)


def parse_target(text: str) -> tuple[str, int] | None:
    """Return the host, in lower case, and port that a ``CONNECT`` names; None for no such thing."""
    found = _TARGET.fullmatch(text)
    if found is None or len(found[1]) > _LONGEST_NAME or not 0 < int(found[2]) < 1 << 16:
        return None
    return found[1].lower(), int(found[2])
