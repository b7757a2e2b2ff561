"""Content digests, as image-spec's descriptor.md ("Digests") writes them; no I/O.

Only SHA-256 is accepted: it is what every registry serves, and a digest becomes a file name, so
the narrow form is checked here, once, before anything can use it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ..errors import InvalidDigest

_FORM = re.compile(r"(sha256):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The SHA-256 digest of some content; safe to use as a file name through ``hex``.

    Raises InvalidDigest for any other algorithm or form.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if _FORM.fullmatch(str(self)) is None:
            raise InvalidDigest(
                f"digest {str(self)[:100]!r} is not supported: "
                "write sha256: and 64 lower-case hexadecimal digits"
            )

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest that ``sha256:<64 hex>`` names. Raises InvalidDigest."""
        algorithm, _, digits = text.partition(":")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Return the digest of ``data``."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits, as Docker shows ids to people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
