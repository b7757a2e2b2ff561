"""pull, commit, images, rmi."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ..tables import Column, Table, size
from .common import CONTAINER, JSON, NO_TRUNC, PLATFORM, QUIET, each, quiet, style
from .declaration import Argument, Call, Verb
from .outcome import Acknowledged, Identifiers, Listing

if TYPE_CHECKING:
    from cellblock_engine import Image, Reference

NONE = "<none>"


@dataclass(frozen=True)
class ImageRow:
    """An image under one of its names; one that has none has one row without."""

    repository: str | None
    tag: str | None
    image_id: str
    digest: str
    platform: str
    created: datetime | None
    size_bytes: int
    layers: int


def rows(image: Image) -> tuple[ImageRow, ...]:
    """Return a row for each reference of an image."""
    references: tuple[Reference | None, ...] = image.references or (None,)
    return tuple(
        ImageRow(
            repository=replace(reference, tag=None, digest=None).familiar if reference else None,
            tag=reference.tag if reference else None,
            image_id=str(image.id),
            digest=str(image.manifest),
            platform=str(image.platform),
            created=image.created,
            size_bytes=image.size_bytes,
            layers=len(image.layers),
        )
        for reference in references
    )


_REPOSITORY = Column("REPOSITORY", lambda row, _: row.repository or NONE)
_TAG = Column("TAG", lambda row, _: row.tag or NONE)
_DIGEST = Column("DIGEST", lambda row, _: row.digest)
_IDENTITY = (
    Column("IMAGE ID", lambda row, view: view.identifier(row.image_id)),
    Column("CREATED", lambda row, view: view.ago(row.created) or "N/A"),
    Column("SIZE", lambda row, _: size(row.size_bytes)),
)


def images(call: Call) -> Listing | Identifiers:
    """List the images of the store, by name."""
    found = [row for image in call.engine.images() for row in rows(image)]
    found.sort(key=lambda row: (row.repository is None, row.repository or "", row.tag or ""))
    if quiet(call):
        ids = dict.fromkeys(row.image_id for row in found)
        return Identifiers(tuple(ids) if call.arguments.no_trunc else tuple(map(_short, ids)))
    names = (_REPOSITORY, _TAG, _DIGEST) if call.arguments.digests else (_REPOSITORY, _TAG)
    return Listing(Table(ImageRow, (*names, *_IDENTITY), tuple(found)), style(call))


def pull(call: Call) -> Acknowledged:
    """Get an image from its registry; the line is its name and its manifest's digest."""
    with call.progress() as progress:
        image = call.engine.pull(
            call.arguments.image, platform=call.arguments.platform, progress=progress
        )
    return Acknowledged((f"{call.arguments.image}: {image.manifest}",))


def commit(call: Call) -> Acknowledged:
    """Make an image of a container; the line is the image's id."""
    arguments = call.arguments
    image = call.engine.commit(
        arguments.container, arguments.image, comment=arguments.message, author=arguments.author
    )
    return Acknowledged((str(image.id),))


def rmi(call: Call) -> Acknowledged:
    """Remove names, and images that lost their last one."""

    def remove(name: str) -> list[str]:
        removed = call.engine.remove_image(name, force=call.arguments.force)
        return [
            *(f"Untagged: {reference.familiar}" for reference in removed.untagged),
            *(f"Deleted: {digest}" for digest in removed.deleted),
        ]

    return each(call.arguments.images, remove)


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


VERBS = (
    Verb(
        "pull",
        "Get an image from its registry",
        (
            PLATFORM,
            Argument(("image",), "as Docker writes it, python:3.12-slim", metavar="IMAGE"),
        ),
        pull,
    ),
    Verb(
        "commit",
        "Make an image of a container, also of one that runs",
        (
            Argument(("-m", "--message"), "what the history is to say of it", default=""),
            Argument(("-a", "--author"), "who made it", default=""),
            CONTAINER,
            Argument(
                ("image",),
                "a name for the image; without one it has its id only",
                "optional",
                "IMAGE",
            ),
        ),
        commit,
    ),
    Verb(
        "images",
        "List images",
        (QUIET, NO_TRUNC, Argument(("--digests",), "show digests", "flag"), JSON),
        images,
    ),
    Verb(
        "rmi",
        "Remove images",
        (
            Argument(("-f", "--force"), "also if a stopped container uses it", "flag"),
            Argument(("images",), "references or ids", "some", "IMAGE", subject="image"),
        ),
        rmi,
    ),
)
