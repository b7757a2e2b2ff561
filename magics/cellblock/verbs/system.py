"""inspect, info, version."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from cellblock_engine import ContainerNotFound, ImageNotFound, NotFound

from ..documents import record
from .common import JSON
from .declaration import Argument, Call, Verb
from .outcome import Facts, Inspection


def inspect(call: Call) -> Inspection:
    """Return everything known of containers and images; a container goes before an image."""
    return Inspection({name: _inspect(call, name) for name in call.arguments.names})


def _inspect(call: Call, name: str) -> dict[str, object]:
    with suppress(ContainerNotFound):
        return record(call.engine.container(name).inspect())
    try:
        return record(call.engine.image(name))
    except ImageNotFound as error:
        raise NotFound(
            f"{name!r} is neither a container nor an image here: see ps -a and images"
        ) from error


def info(call: Call) -> Facts:
    """Return what the engine is and what it found on this machine."""
    return Facts(record(call.engine.info()), "json" if call.arguments.json else "text")


def version(call: Call) -> Facts:
    """Return the versions that a report of a defect should name."""
    from .. import __version__  # noqa: PLC0415 - read from the metadata only now

    facts = {
        "cellblock": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "kernel": os.uname().release,
        "architecture": os.uname().machine,
    }
    return Facts(facts, "json" if call.arguments.json else "text")


VERBS = (
    Verb(
        "inspect",
        "Show everything about containers and images",
        (Argument(("names",), "containers or images", "some", "NAME", subject="container"),),
        inspect,
    ),
    Verb("info", "Show the engine and this machine", (JSON,), info),
    Verb("version", "Show versions", (JSON,), version),
)
