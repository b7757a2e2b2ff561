"""What the store knows of an image, and what one may be called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .errors import InvalidInput
from .oci.config import ImageConfig
from .oci.digest import Digest
from .oci.platform import Platform
from .oci.reference import Reference
from .request import HOST_IMAGE


@dataclass(frozen=True)
class Image:
    """An image whose layers are all in the store.

    ``id`` is the digest of its config, as in Docker; ``size_bytes`` counts its unpacked layers;
    ``layers`` are diffIDs, the bottom one first.
    """

    id: Digest
    references: tuple[Reference, ...]
    manifest: Digest
    created: datetime | None
    size_bytes: int
    platform: Platform
    layers: tuple[Digest, ...]
    config: ImageConfig


@dataclass(frozen=True)
class RemovedImage:
    """What removing an image took away; ``freed_bytes`` counts blobs and unpacked layers."""

    untagged: tuple[Reference, ...]
    deleted: tuple[Digest, ...]
    freed_bytes: int


def parse_name(text: str) -> Reference:
    """Return the reference that an image of one's own is to have. Raises InvalidInput."""
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise InvalidInput(f"{text!r} has a digest, which follows from the content: give a tag")
    if reference.familiar.startswith("sha256:"):  # that is read as an id, and would never be found
        raise InvalidInput(f"{text!r} is how ids are written: give another name")
    if text == HOST_IMAGE:
        raise InvalidInput(f"{text!r} is this machine's own image: give another name")
    return reference
