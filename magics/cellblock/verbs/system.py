"""doctor, info, inspect, version, and the verbs of ``system``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from cellblock_engine import ContainerNotFound, ImageNotFound, NotFound

from ..documents import record
from ..tables import Column, Table, size
from .cleaning import DF, PRUNE
from .common import JSON, agreed
from .declaration import Argument, Call, Verb
from .group import Group
from .outcome import Acknowledged, Facts, Inspection, Listing

if TYPE_CHECKING:
    from cellblock_engine import Check

_CANNOT_RUN_STATUS = 1
_CHECK_COLUMNS = (
    Column("CHECK", lambda row, _: row.name),
    Column("STATUS", lambda row, _: row.status),
    Column("FOUND", lambda row, _: row.found),
)


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


def doctor(call: Call) -> Listing:
    """Return a row for each thing that containers need, and for what is wrong in the store."""
    from cellblock_engine import Check  # noqa: PLC0415 - help must not load the engine

    found = call.engine.doctor(repair=call.arguments.repair, quick=call.arguments.quick)
    table = Table(Check, _CHECK_COLUMNS, found.rows, _advice)
    status = 0 if found.usable else _CANNOT_RUN_STATUS
    return Listing(table, "json" if call.arguments.json else "text", exit_status=status)


def _advice(row: Check) -> tuple[str, ...]:
    lines = (("lost", row.lost), ("to get it", row.remedy))
    return tuple(f"{what}: {words}" for what, words in lines if words)


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


def reset(call: Call) -> Acknowledged:
    """Remove everything that cellblock keeps, once the user has said yes."""
    what = f"all containers, images and layers in {call.engine.home}"
    if not (call.arguments.force or agreed(call, what, "resets")):
        return Acknowledged(("Nothing was removed",))
    from cellblock_kernel import remove_kernelspecs_of  # noqa: PLC0415 - brings jupyter_client

    removed = call.engine.reset(force=call.arguments.force)
    kernels = remove_kernelspecs_of(call.engine.home)
    lines = (
        f"Deleted containers: {removed.containers}",
        f"Deleted images: {removed.images}",
        f"Deleted layers: {removed.layers}",
        f"Deleted kernelspecs: {len(kernels)}",
        f"Total reclaimed space: {size(removed.freed_bytes)}",
    )
    left = f"Left in {call.engine.home}: {', '.join(removed.left)}"
    return Acknowledged((*lines, left) if removed.left else lines)


_INFO = Verb("info", "Show the engine and this machine", (JSON,), info)

VERBS = (
    Verb(
        "inspect",
        "Show everything about containers and images",
        (Argument(("names",), "containers or images", "some", "NAME", subject="either"),),
        inspect,
    ),
    Verb(
        "doctor",
        "Show what this machine offers, and what the store lacks",
        (
            Argument(("--repair",), "sweep what is stale, mend what is damaged", "flag"),
            Argument(("--quick",), "leave out the contents of blobs and layers", "flag"),
            JSON,
        ),
        doctor,
    ),
    _INFO,
    DF,
    Verb("version", "Show versions", (JSON,), version),
)

_RESET = Verb(
    "reset",
    "Remove the whole store, with containers and kernelspecs",
    (Argument(("-f", "--force"), "do not ask; end what runs", "flag"),),
    reset,
)

SYSTEM = Group(
    "system",
    "Look after cellblock itself",
    {verb.name: verb for verb in (_INFO, DF, PRUNE, _RESET)},
)
