"""pull, push, commit, tag, images, rmi."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ..tables import Column, Table, size
from .commitment import COMMIT_FLAGS, commit_request
from .common import CONTAINER, JSON, NO_TRUNC, PLATFORM, QUIET, each, quiet, style
from .declaration import Argument, Call, Verb
from .outcome import Acknowledged, Identifiers, Listing

if TYPE_CHECKING:
    from cellblock_engine import Digest, Image, Reference

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


_REPOSITORY = Column("REPOSITORY", lambda row, _: _name(row))
_BRANCH = Column(
    "REPOSITORY", lambda row, _: f"{'   ' * (row.depth - 1)}└─ " * bool(row.depth) + _name(row)
)
_TAG = Column("TAG", lambda row, _: row.tag or NONE)
_DIGEST = Column("DIGEST", lambda row, _: row.digest)
_IDENTITY = (
    Column("IMAGE ID", lambda row, view: view.identifier(row.image_id)),
    Column("CREATED", lambda row, view: view.ago(row.created) or "N/A"),
    Column("SIZE", lambda row, _: size(row.size_bytes)),
)


@dataclass(frozen=True)
class BranchRow(ImageRow):
    """An image below the one whose layers it continues; ``depth`` is 0 for one that has none."""

    parent_id: str | None
    depth: int


def images(call: Call) -> Listing | Identifiers:
    """List the images of the store, by name, or each below the one it was made from."""
    found = call.engine.images(nameless=call.arguments.all)
    listed = sorted((row for image in found for row in rows(image)), key=_by_name)
    if quiet(call):
        ids = dict.fromkeys(row.image_id for row in listed)
        return Identifiers(tuple(ids) if call.arguments.no_trunc else tuple(map(_short, ids)))
    names = (_TAG, _DIGEST) if call.arguments.digests else (_TAG,)
    if call.arguments.tree:
        columns = (_BRANCH, *names, *_IDENTITY)
        return Listing(Table(BranchRow, columns, tuple(_branches(found))), style(call))
    return Listing(Table(ImageRow, (_REPOSITORY, *names, *_IDENTITY), tuple(listed)), style(call))


def _branches(images: Sequence[Image]) -> Iterator[BranchRow]:
    """Yield the rows of images, each image followed by those that have all its layers and more."""
    below: dict[Digest | None, list[tuple[ImageRow, Image]]] = {}
    for image in images:
        parent = _parent(image, images)
        for row in rows(image):
            below.setdefault(parent.id if parent else None, []).append((row, image))
    seen: set[Digest] = set()

    def walk(parent: Digest | None, depth: int) -> Iterator[BranchRow]:
        for row, image in sorted(below.get(parent, ()), key=lambda pair: _by_name(pair[0])):
            parent_id = str(parent) if parent else None
            yield BranchRow(**vars(row), parent_id=parent_id, depth=depth)
            if image.id not in seen:  # under the first of its names
                seen.add(image.id)
                yield from walk(image.id, depth + 1)

    yield from walk(None, 0)


def _parent(image: Image, images: Sequence[Image]) -> Image | None:
    """Return the image with the most of this one's layers, from the bottom up, and no other."""
    lower = [
        other
        for other in images
        if 0 < len(other.layers) < len(image.layers)
        and image.layers[: len(other.layers)] == other.layers
    ]
    return max(lower, key=lambda other: len(other.layers), default=None)


def _by_name(row: ImageRow) -> tuple[bool, str, str]:
    return row.repository is None, row.repository or "", row.tag or ""


def pull(call: Call) -> Acknowledged:
    """Get an image from its registry; the line is its name and its manifest's digest."""
    with call.progress() as progress:
        image = call.engine.pull(
            call.arguments.image, platform=call.arguments.platform, progress=progress
        )
    return Acknowledged((f"{call.arguments.image}: {image.manifest}",))


def push(call: Call) -> Acknowledged:
    """Send an image to its registry; the line is its name and its manifest's digest."""
    arguments = call.arguments
    with call.progress() as progress:
        image = call.engine.push(
            arguments.image, compression=arguments.compression, progress=progress
        )
    return Acknowledged((f"{arguments.image}: {image.manifest}",))


def tag(call: Call) -> Acknowledged:
    """Give an image one more name; there is nothing to say, as in Docker."""
    call.engine.tag(call.arguments.source, call.arguments.target)
    return Acknowledged(())


def commit(call: Call) -> Acknowledged:
    """Make an image of a container; the line is the image's id."""
    arguments = call.arguments
    image = call.engine.commit(
        arguments.container,
        arguments.image,
        commit_request(call),
    )
    notes = []
    if image.added is None:
        notes.append("nothing has changed: no layer was added")
    if image.paused_s:
        notes.append(f"the container stood still for {image.paused_s:.3f} s")
    return Acknowledged((str(image.id),), notes=tuple(notes))


def rmi(call: Call) -> Acknowledged:
    """Remove names, and images that lost their last one."""

    def remove(name: str) -> list[str]:
        removed = call.engine.remove_image(name, force=call.arguments.force)
        return [
            *(f"Untagged: {reference.familiar}" for reference in removed.untagged),
            *(f"Deleted: {digest}" for digest in removed.deleted),
        ]

    return each(call.arguments.images, remove)


def _name(row: ImageRow) -> str:
    return row.repository or NONE


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
        "push",
        "Send an image to the registry that is in its name",
        (
            Argument(
                ("--compression",),
                "of layers that commits have made: gzip (the default), zstd or none",
                default="gzip",
                values=("gzip", "zstd", "none"),
            ),
            Argument(("image",), "a name of an image here", metavar="IMAGE", subject="image"),
        ),
        push,
    ),
    Verb(
        "tag",
        "Give an image one more name",
        (
            Argument(("source",), "reference or id", metavar="SOURCE", subject="image"),
            Argument(("target",), "the further name", metavar="TARGET"),
        ),
        tag,
    ),
    Verb(
        "commit",
        "Make an image of a container, also of one that runs",
        (
            *COMMIT_FLAGS,
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
        (
            Argument(
                ("-a", "--all"), "also those without a name that containers still need", "flag"
            ),
            Argument(("--tree",), "each below the one whose layers it continues", "flag"),
            QUIET,
            NO_TRUNC,
            Argument(("--digests",), "show digests", "flag"),
            JSON,
        ),
        images,
    ),
    Verb(
        "rmi",
        "Remove images",
        (
            Argument(
                ("-f", "--force"),
                "also if containers that do not run use it and, by id, if it has several names",
                "flag",
            ),
            Argument(("images",), "references or ids", "some", "IMAGE", subject="image"),
        ),
        rmi,
    ),
)
