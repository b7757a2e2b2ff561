"""df and prune: what the store takes, and removing what nothing uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from cellblock_engine import InvalidInput

from ..tables import Column, Table, size
from .common import JSON, agreed
from .declaration import Argument, Call, Verb
from .group import Group
from .outcome import Acknowledged, Listing

if TYPE_CHECKING:
    from cellblock_engine import Digest, DiskUsage, Pruned

_ENDED = "all containers that have ended"
_UNTAGGED = "all images without a tag that no container or installed kernel uses"
_UNUSED = "all images that no container or installed kernel uses"


def df(call: Call) -> Listing:
    """List what images, containers, layers and blobs take on disk."""
    from cellblock_engine import DiskUsage  # noqa: PLC0415 - help must not load the engine

    rows = call.engine.disk_usage(keep=_of_kernels())
    return Listing(Table(DiskUsage, _COLUMNS, rows), "json" if call.arguments.json else "text")


def prune_containers(call: Call) -> Acknowledged:
    """Remove containers that have ended."""
    return _prune(call, _ENDED, lambda dry: call.engine.prune(images=None, dry_run=dry))


def prune_images(call: Call) -> Acknowledged:
    """Remove images without a tag, or all that are not used."""
    images = _images(call)

    def act(dry: bool) -> Pruned:  # noqa: FBT001 - private
        return call.engine.prune(containers=False, images=images, keep=_of_kernels(), dry_run=dry)

    return _prune(call, _UNUSED if images == "used" else _UNTAGGED, act)


def prune(call: Call) -> Acknowledged:
    """Remove containers that have ended, and images."""
    images = _images(call)
    what = f"{_ENDED}, and then {_UNUSED if images == 'used' else _UNTAGGED}"

    def act(dry: bool) -> Pruned:  # noqa: FBT001 - private
        return call.engine.prune(images=images, keep=_of_kernels(), dry_run=dry)

    return _prune(call, what, act)


def _prune(call: Call, what: str, act: Callable[[bool], Pruned]) -> Acknowledged:
    dry_run = call.arguments.dry_run
    if not (dry_run or call.arguments.force or agreed(call, what, "prunes")):
        return Acknowledged(("Nothing was removed",))
    gone = act(dry_run)
    if dry_run:
        deletes, untags, space = "Would delete", "Would untag", "Space that would be reclaimed"
    else:
        deletes, untags, space = "Deleted", "Untagged", "Total reclaimed space"
    return Acknowledged(
        (
            *(f"{deletes} container: {name}" for name in gone.containers),
            *(f"{untags}: {reference.familiar}" for reference in gone.untagged),
            *(f"{deletes}: {digest}" for digest in gone.deleted),
            f"{space}: {size(gone.freed_bytes)}",
        )
    )


def _images(call: Call) -> Literal["tagged", "used"]:
    return "used" if call.arguments.all else "tagged"


def _of_kernels() -> set[Digest]:
    """Return the images of the kernels that Jupyter would start."""
    from cellblock_engine import Digest  # noqa: PLC0415 - help must not load the engine
    from cellblock_kernel import installed_kernelspecs  # noqa: PLC0415 - jupyter_client, only now

    found = set()
    for spec in installed_kernelspecs():
        with suppress(InvalidInput):
            found.add(Digest.parse(spec.digest or ""))
    return found


def _reclaimable(row: DiskUsage) -> str:
    share = f" ({row.reclaimable_bytes / row.size_bytes:.0%})" if row.size_bytes else ""
    return f"{size(row.reclaimable_bytes)}{share}"


_COLUMNS = (
    Column("TYPE", lambda row, _: row.kind.capitalize()),
    Column("TOTAL", lambda row, _: str(row.total)),
    Column("ACTIVE", lambda row, _: str(row.active)),
    Column("SIZE", lambda row, _: size(row.size_bytes)),
    Column("RECLAIMABLE", lambda row, _: _reclaimable(row)),
)
_FORCE = Argument(("-f", "--force"), "do not ask", "flag")
_DRY_RUN = Argument(("--dry-run",), "show what would go, remove nothing", "flag")
_ALL = Argument(("-a", "--all"), "also images with a tag, if nothing uses them", "flag")

DF = Verb("df", "Show what is taken on disk, and what could be freed", (JSON,), df)
PRUNE = Verb(
    "prune",
    "Remove containers that do not run, and untagged images",
    (_ALL, _DRY_RUN, _FORCE),
    prune,
)
_CONTAINERS = Verb(
    "prune", "Remove containers that do not run", (_DRY_RUN, _FORCE), prune_containers
)
_IMAGES = Verb("prune", "Remove images that nothing uses", (_ALL, _DRY_RUN, _FORCE), prune_images)

CONTAINER = Group("container", "Look after containers", {"prune": _CONTAINERS})
IMAGE = Group("image", "Look after images", {"prune": _IMAGES})
