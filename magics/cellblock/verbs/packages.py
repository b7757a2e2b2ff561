"""packages: what is installed in an image or a container, and how two images differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cellblock_engine import Conflict, ContainerNotFound, ImageNotFound, InvalidInput

from ..tables import Column, Table
from .common import JSON
from .declaration import Argument, Call, Verb
from .outcome import Listing

if TYPE_CHECKING:
    from cellblock_engine import Package

_PACKAGES = (
    Column("KIND", lambda row, _: row.kind),
    Column("NAME", lambda row, _: row.name),
    Column("VERSION", lambda row, _: row.version),
    Column("PLACE", lambda row, _: row.place),
)
_CHANGES = (
    Column("CHANGE", lambda row, _: row.change),
    Column("KIND", lambda row, _: row.kind),
    Column("NAME", lambda row, _: row.name),
    Column("OLD", lambda row, _: row.old or ""),
    Column("NEW", lambda row, _: row.new or ""),
    Column("PLACE", lambda row, _: row.place),
)


def packages(call: Call) -> Listing:
    """List what is installed, or what differs between two images."""
    from cellblock_engine import PackageChange  # noqa: PLC0415 - help must not load the engine

    given = call.arguments
    names = given.names
    if len(names) > (1 if given.container else 2):
        raise InvalidInput("packages takes an image, two images, or --container and a container")
    if given.container:
        return installed(call, call.engine.container_packages(names[0]))
    if not names[1:]:
        return installed(call, _of_image(call, names[0]))
    changes = call.engine.package_changes(*names)
    return Listing(Table(PackageChange, _CHANGES, changes), _style(call))


def _of_image(call: Call, name: str) -> tuple[Package, ...]:
    try:
        return call.engine.packages(name)
    except ImageNotFound:
        if not _is_container(call, name):
            raise
    raise InvalidInput(f"{name} is a container: give --container as well")


def _is_container(call: Call, name: str) -> bool:
    try:
        call.engine.container(name)
    except (ContainerNotFound, Conflict):
        return False
    return True


def installed(call: Call, rows: tuple[Package, ...]) -> Listing:
    """Return the table of installed packages."""
    from cellblock_engine import Package  # noqa: PLC0415 - help must not load the engine

    return Listing(Table(Package, _PACKAGES, rows), _style(call))


def _style(call: Call) -> Literal["text", "json"]:
    return "json" if call.arguments.json else "text"


VERBS = (
    Verb(
        "packages",
        "Show the packages of an image, or how two images differ",
        (
            JSON,
            Argument(("--container",), "the name is a container's", "flag"),
            Argument(("names",), "an image, or two", "some", "IMAGE", subject="image"),
        ),
        packages,
    ),
)
