"""Platforms an image is made for, and which of them a machine can run; no I/O.

Names and their spellings follow containerd's ``platforms`` package. Other than there, a 64-bit
machine is not offered 32-bit images: the seccomp profile refuses their system calls.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ..errors import InvalidInput

_PART = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_ARCHITECTURES = {
    "aarch64": ("arm64", None),
    "armel": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "loongarch64": ("loong64", None),
    "x86-64": ("amd64", None),
    "x86_64": ("amd64", None),
}
_KNOWN = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"}
)
# What a missing variant means; the variants below run on those above within one architecture.
_DEFAULT_VARIANT = {"amd64": "v1", "arm": "v7", "arm64": "v8"}


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """``os/architecture[/variant]``, in Go's names and normalised (``arm64/v8`` is ``arm64``)."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform ``linux/arm64/v8``, ``linux/arm64`` or ``arm64`` names.

        An operating system alone means this machine's architecture. Raises InvalidInput.
        """
        parts = text.split("/")
        if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
            raise InvalidInput(
                f"platform {text[:100]!r} is not valid: write os/architecture[/variant], "
                "as linux/arm64"
            )
        if len(parts) == 1:
            architecture, _ = _ARCHITECTURES.get(text.lower(), (text.lower(), None))
            if architecture in _KNOWN:
                return cls.of("linux", text)
            host = cls.host()
            return cls.of(text, host.architecture, host.variant)
        return cls.of(*parts)

    @classmethod
    def of(cls, os_name: str, architecture: str, variant: str | None = None) -> Platform:
        """Return the normalised platform of names in any of their common spellings."""
        architecture = architecture.lower()
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, None))
        variant = (variant or implied or "").lower()
        if variant.isdigit():
            variant = f"v{variant}"
        if architecture != "arm" and variant == _DEFAULT_VARIANT.get(architecture):
            variant = ""
        if architecture == "arm" and not variant:
            variant = _DEFAULT_VARIANT["arm"]
        return cls(os_name.lower(), architecture, variant or None)

    @classmethod
    def host(cls) -> Platform:
        """Return the platform of this machine's kernel."""
        machine = os.uname()
        return cls.of(machine.sysname, machine.machine)

    def runs(self, image: Platform) -> int | None:
        """Return how well a machine of this platform runs ``image``; None where it cannot.

        Higher is better: the image's variant, as a number, which is never above the machine's.
        """
        if (self.os, self.architecture) != (image.os, image.architecture):
            return None
        mine, theirs = self._level, image._level
        if mine is None or theirs is None:
            return 0 if self.variant == image.variant else None
        return theirs if theirs <= mine else None

    @property
    def _level(self) -> int | None:
        """The variant as a number; None where it is not one of those that are ordered."""
        variant = self.variant or _DEFAULT_VARIANT.get(self.architecture, "v0")
        match = re.fullmatch(r"v(\d{1,3})", variant)
        return int(match[1]) if match else None

    def __str__(self) -> str:
        parts = (self.os, self.architecture, self.variant)
        return "/".join(part for part in parts if part is not None)
