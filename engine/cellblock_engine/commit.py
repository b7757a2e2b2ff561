"""A container becomes an image: what was written in it is one layer more.

Commits of one container stack: each builds on the one before, and tells what has changed since.
One that runs stands still for as long as its files are looked at, not while they are packed. The
container stays as it is: its files are copied, never moved, and never linked, as later writes
would change the layer. Its own settings do not go in: the image is run as the one that it was
made from.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from .container import Container
from .errors import Conflict, ImageNotFound, InvalidInput
from .image import Image
from .imagerequest import CommitRequest
from .log import Log
from .oci.config import HistoryEntry
from .oci.digest import Digest
from .oci.instructions import parse_changes
from .oci.manifest import MAX_LAYERS
from .oci.provenance import Provenance
from .oci.reference import Reference
from .provenance import completed, with_earlier
from .store import Store, commitnote
from .store.commitnote import CommitNote, CommittedImage
from .store.containers import ContainerConfig
from .store.epoch import moment
from .store.locks import Kind, locked
from .store.marks import Marks
from .stored import require_stored
from .written import Ground, written

_LOCK = "commit.lock"
_TURN_S = 60.0
_log = Log(__name__)


@dataclass(frozen=True)
class Commit(Image):
    """The image that was made of a container, and what that took.

    ``added`` is the layer it has above its base, None where nothing had changed;
    ``added_bytes`` is the size of its archive. For ``paused_s`` seconds the container stood
    still, 0 where it did not run.
    """

    added: Digest | None
    added_bytes: int
    paused_s: float
    provenance: Provenance


def commit(
    store: Store,
    container: Container,
    config: ContainerConfig,
    reference: Reference | None,
    request: CommitRequest,
) -> Commit:
    """Add the image that the container's files make of its image; return it.

    Without a reference it is held by its digest, under its base's name. Raises Conflict for a
    container that does not hold still, Unsupported for one of the host image, whose files are in
    memory, or that cannot be paused, ImageNotFound where its image is gone, StoreFull,
    StoreError; then there is no image.
    """
    require_stored(config, "become an image")
    alone = locked(
        container.directory / _LOCK,
        Kind.EXCLUSIVE,
        timeout_s=_TURN_S,
        what=f"container {config.name}, which is being committed,",
    )
    with alone, store.referencing():
        name = reference or _name(store, config)
        changes = parse_changes(request.changes)
        grounds = _grounds(store, container, config, squash=request.squash)
        store.images.check_changes(grounds[0].manifest, changes)
        made = written(store, container, config, grounds, request)
        provenance = completed(
            _told(store, container, config, request, made.ground),
            store,
            base=made.ground.manifest,
            called=config.image,
            below=made.ground.layers,
            layer=made.layer.digest if made.layer else None,
        )
        step = HistoryEntry(
            created=moment(request.epoch_s),
            created_by=request.created_by or provenance.in_short or shlex.join(config.argv),
            author=request.author,
            comment=request.comment,
            empty_layer=made.layer is None,
        )
        image = store.images.derive(
            made.ground.manifest, made.layer, step, name, changes, provenance=provenance
        )
        _note(store, container, image, made.marks)
    _log.info("committed container %s: %s", config.name, image.id)
    return Commit(
        **vars(image),
        added=made.layer.digest if made.layer else None,
        added_bytes=made.layer.size if made.layer else 0,
        paused_s=made.paused_s,
        provenance=provenance,
    )


def _grounds(
    store: Store, container: Container, config: ContainerConfig, *, squash: bool
) -> tuple[Ground, ...]:
    """Return the container's last commit if that is in the store, and its own image."""
    own = Ground(_base(store, config), tuple(map(Digest.parse, config.layers)))
    note = None if squash else commitnote.read(container.directory)
    manifest = None if note is None else _manifest(store, note.image)
    if note is None or manifest is None:
        return (own,)
    if len(note.image.layers) >= MAX_LAYERS:
        raise Conflict(
            f"container {config.name} was committed so often that its image has {MAX_LAYERS} "
            "layers, as many as a kernel can stack: commit it with --squash"
        )
    return Ground(manifest, note.image.layers, note.marks), own


def _manifest(store: Store, image: CommittedImage) -> Digest | None:
    """Return a manifest of an image, None where not all of it is in the store any more."""
    if not all(map(store.layers.has, image.layers)):
        return None
    try:  # since a push it may have another, with packed layers
        return store.images.resolve(str(image.id)).manifest
    except ImageNotFound:
        return image.manifest if all(map(store.blobs.has, (image.manifest, image.id))) else None


def _told(
    store: Store,
    container: Container,
    config: ContainerConfig,
    request: CommitRequest,
    ground: Ground,
) -> Provenance:
    """Return what was executed since the ground, which is not always the last commit."""
    told = request.provenance or Provenance()
    last = commitnote.last_image(container.directory)
    if last is None or ground.marks is not None:
        return told
    assert config.image_id is not None
    base = Digest.parse(config.image_id)
    return with_earlier(told, store, base=base, last=last.id)


def _note(store: Store, container: Container, image: Image, now: Marks) -> None:
    """Let the next commit build on this one; where there is no room, on the one before."""
    made = CommittedImage(image.id, image.manifest, image.layers)
    try:
        commitnote.write(store.staging, container.directory, CommitNote(made, now))
    except OSError as error:
        _log.info("the commit of container %s is not noted: %s", container.name, error)


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
