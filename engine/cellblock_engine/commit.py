"""A container that has ended becomes an image: what was written in it is one layer more.

The container stays as it is and can be started again: its files are copied, never moved, and
never linked, as later writes would change the layer. Its own settings do not go in: the image is
run as the one that it was made from.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from datetime import UTC, datetime

from .assembly import mount_places
from .container import Container
from .errors import ImageNotFound, InvalidInput, Unsupported
from .image import Image
from .log import Log
from .oci.config import HistoryEntry
from .oci.digest import Digest
from .oci.manifest import OCI_LAYER, Descriptor
from .oci.reference import Reference
from .request import HOST_IMAGE
from .store import Store
from .store.containers import ContainerConfig, upper
from .store.pack import data_bytes, pack

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_log = Log(__name__)


def commit(
    store: Store,
    container: Container,
    config: ContainerConfig,
    reference: Reference | None,
    *,
    comment: str,
    author: str,
    created_by: str,
) -> Image:
    """Add the image that the container's files make of its image; return it.

    Without a reference it is held by its digest, under its base's name. ``created_by`` is the
    container's command where it is empty. Raises Conflict for a container that runs, Unsupported
    for one of the host image, ImageNotFound where its image is gone, StoreFull, StoreError; then
    there is no image.
    """
    if config.image_id is None:
        raise Unsupported(
            f"container {config.name} cannot become an image: its files are this machine's own; "
            "use a container of a pulled image"
        )
    with store.referencing():
        base = _base(store, config)
        name = reference or _name(store, config)
        with container.at_rest() as directory:
            root = os.open(upper(directory, 0) / "fs", _DIRECTORY)
            try:
                store.blobs.check_room(data_bytes(root))  # files may be more hole than data
                diffid, size_bytes = store.layers.make(pack(root, without=mount_places(config)))
            finally:
                os.close(root)
        step = HistoryEntry(
            created=datetime.now(UTC),
            created_by=created_by or shlex.join(config.argv),
            author=author,
            comment=comment,
            empty_layer=False,
        )
        image = store.images.derive(base, Descriptor(OCI_LAYER, diffid, size_bytes), step, name)
    _log.info("committed container %s: %s", config.name, image.id)
    return image


def parse_target(text: str) -> Reference:
    """Return the reference that an image of one's own is to have. Raises InvalidInput."""
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise InvalidInput(f"{text!r} has a digest, which follows from the content: give a tag")
    if text == HOST_IMAGE:
        raise InvalidInput(f"{text!r} is this machine's own image: give another name")
    return reference


def _base(store: Store, config: ContainerConfig) -> Digest:
    """Return the manifest of the container's image."""
    if config.manifest and store.blobs.has(manifest := Digest.parse(config.manifest)):
        return manifest
    try:  # containers of older versions do not say
        return store.images.resolve(str(config.image_id)).manifest
    except ImageNotFound:
        raise ImageNotFound(
            f"the image that container {config.name} was made from ({config.image}) is not in "
            "the store any more: pull it again"
        ) from None


def _name(store: Store, config: ContainerConfig) -> Reference:
    """Return a name of the container's image, without tag and digest."""
    try:
        first = store.images.resolve(str(config.image_id)).references[0]
    except ImageNotFound:
        raise InvalidInput(
            f"the image that container {config.name} was made from ({config.image}) has lost its "
            "name: give one to the new image"
        ) from None
    return replace(first, tag=None, digest=None)
