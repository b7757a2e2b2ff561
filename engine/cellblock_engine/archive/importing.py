"""A flat archive of files becomes an image of one layer.

The archive is somebody's: it is unpacked as a layer of a registry is, within bounds and out of
reach, and packed again, in one order. So the same files are the same layer, whoever packed them,
and the archive itself need not be kept.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ..errors import InvalidArchive, InvalidInput, InvalidLayer
from ..image import Image
from ..imagerequest import ImportRequest
from ..log import Log
from ..oci.config import HistoryEntry
from ..oci.derivation import Derived, derive
from ..oci.digest import Digest
from ..oci.instructions import Instruction, parse_changes
from ..oci.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..store import Store
from ..store.copying import Adopted, Source, opened
from ..store.epoch import clamped, moment
from ..store.pack import entries
from ..store.tar import Entry
from ..store.unpacking import Caps, unpack_while_made
from .contents import DOCKER_MANIFEST, INDEX, LAYOUT
from .load import NAMELESS
from .source import opened_file, unpacked

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_log = Log(__name__)


def import_tree(
    store: Store, source: Path | BinaryIO, reference: Reference | None, request: ImportRequest
) -> Image:
    """Add the image that has the files of an archive and nothing else; return it.

    Without a reference it is held by its digest. Raises InvalidInput, InvalidArchive, StoreFull,
    StoreError; then there is no image.
    """
    changes = parse_changes(request.changes)
    platform = Platform.parse(request.platform) if request.platform else Platform.host()
    step = HistoryEntry(
        created=moment(request.epoch_s),
        created_by="",
        author="",
        comment=request.comment or "Imported from -",  # as Docker says, wherever it is from
        empty_layer=False,
    )
    _documents(None, step, changes, platform)  # what is wrong with the words is told first
    with store.referencing(), _file(source) as fd:
        layer = store.inside.run_on(fd, _layer, store, fd, request.epoch_s)
        derived = _documents(layer, step, changes, platform)
        manifest = Digest.of(derived.manifest)
        store.blobs.keep(Digest.of(derived.config), derived.config)
        store.blobs.keep(manifest, derived.manifest)
        image = store.images.add(reference or _nameless(manifest), manifest)
    _log.info("imported %s: %s", image.references[0], image.id)
    return image


def _documents(
    layer: Descriptor | None,
    step: HistoryEntry,
    changes: tuple[Instruction, ...],
    platform: Platform,
) -> Derived:
    """Return the documents of an image that is this layer, made from one that is nothing."""
    nothing = {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    raw = json.dumps(nothing).encode()
    manifest = Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, Digest.of(raw), len(raw)), ())
    return derive(manifest, raw, layer, step, changes)


def _layer(store: Store, fd: int, epoch_s: int | None) -> Descriptor:
    """Add the layer that has the files of the archive ``fd``."""
    with store.staging.directory() as staging, ExitStack() as stack:
        try:
            unpack_while_made(unpacked(fd), staging, Caps())
        except InvalidLayer as error:
            raise InvalidArchive(f"the archive is refused: {error}") from error
        _refuse_unusable(staging)
        root = os.open(staging / "fs", _DIRECTORY)
        stack.callback(os.close, root)
        found: Iterator[Entry | Source | Adopted] = entries(root, opened)
        if epoch_s is not None:
            found = clamped(found, epoch_s, root)
        copy = stack.enter_context(store.layers.copying())
        try:
            copy.fill(found)
        except PermissionError as error:  # of an ordinary user alone
            path = os.fsdecode(error.filename or b"")[-80:]
            raise InvalidArchive(
                f"the archive is refused: its owner may not enter the directory {path!r}; "
                "import it as root"
            ) from error
        diffid, size_bytes = store.layers.keep(copy)
    return Descriptor(OCI_LAYER, diffid, size_bytes)


def _refuse_unusable(staging: Path) -> None:
    """Raise InvalidArchive for what was unpacked, but is no tree of files by itself."""
    known = json.loads((staging / "layer.json").read_bytes())
    if not known["entries"]:
        raise InvalidArchive("the archive has no files: see what was to make it")
    if known["links"]:
        path = next(iter(known["links"]))
        raise InvalidArchive(f"the archive is refused: {path[-80:]!r} links to a file it has not")
    names = set(os.listdir(staging / "fs"))  # noqa: PTH208 - names alone
    if {LAYOUT, INDEX} <= names or (DOCKER_MANIFEST in names and "repositories" in names):
        raise InvalidArchive("this is an archive of images, not of files: load it")


@contextmanager
def _file(source: Path | BinaryIO) -> Iterator[int]:
    with opened_file(source) as fd:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise InvalidInput(f"cannot import {source}: it is a directory; give an archive of it")
        yield fd


def _nameless(manifest: Digest) -> Reference:
    return replace(Reference.parse(NAMELESS), tag=None, digest=manifest)
