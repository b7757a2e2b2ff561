"""The other engines that are measured: which of them are here."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from support.docker import Docker, find, serving

__all__ = ["Docker", "docker", "find", "missing"]

PROGRAMS = ("dockerd", "docker", "runc", "bwrap", "kern")


def missing() -> list[str]:
    """Return the names of the peers' programs that are not installed."""
    return [name for name in PROGRAMS if find(name) is None]


def docker(stack: ExitStack, directory: Path) -> Docker | None:
    """Start a daemon without network; the stack ends it. None where it is not installed."""
    if find("dockerd") is None or find("docker") is None:
        return None
    return stack.enter_context(serving(directory))
