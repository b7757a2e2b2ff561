"""Whether what is in a store is still what it was when it was put there.

A layer's directory is compared with what its archive unpacks to, or with the diffID where it can
be packed again. Times of directories that a layer only implies are nobody's, and differ.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CellblockError, InvalidLayer
from ..oci.digest import Digest
from . import chains, pack, tar

if TYPE_CHECKING:
    from .store import Store

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def blob_is_whole(path: Path, digest: Digest) -> bool:
    """Tell whether a blob's content has its digest. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest.hex


def layer_differs(
    store: Store, diffid: Digest, archive: tuple[Path, str] | None, *, is_own: bool
) -> str | None:
    """Return how a layer differs from its ``archive``, a blob and its type; None if it does not.

    Without an archive, one that ``is_own``, made here, is packed again; others are taken to be
    whole. Raises StoreError, StoreFull for an archive that has no room, OSError.
    """
    if is_damaged(store, diffid):
        return "what is known of it is damaged"
    if archive is None:
        return "its files have changed" if is_own and not _packs_again(store, diffid) else None
    with store.layers.unpacked(archive[0], archive[1], diffid) as made:
        present = store.layout.layers / diffid.hex
        records = [json.loads((each / "layer.json").read_bytes()) for each in (present, made)]
        if records[0] != records[1]:
            return "what is known of it has changed"
        implied = tuple(records[1]["implied"])
        prints = [fingerprint(store, each / "fs", implied) for each in (present, made)]
    return None if prints[0] == prints[1] else "its files have changed"


def is_damaged(store: Store, diffid: Digest) -> bool:
    """Tell whether a layer that is there has no files, or nothing can be known of it."""
    try:
        store.layers.path(diffid)
        store.layers.record(diffid)
    except (CellblockError, ValueError, KeyError, TypeError, AttributeError):
        return True
    return False


def chain_differs(store: Store, diffids: tuple[Digest, ...], directory: Path) -> bool:
    """Tell whether a chain is not what its layers make of it. Raises StoreError, OSError."""
    if not store.inside.is_here:
        return store.inside.run(chain_differs, store, diffids, directory)
    layers = store.layers
    with store.staging.directory() as staging:
        stack = [(layers.path(diffid), layers.record(diffid)) for diffid in diffids]
        record = chains.build(stack, [str(diffid) for diffid in diffids], staging)
        if chains.read(directory) != record:
            return True
        if not record.fixed:
            return (directory / "fs").exists()
        prints = [fingerprint(store, each / "fs", ()) for each in (directory, staging)]
    return prints[0] != prints[1]


def fingerprint(store: Store, tree: Path, implied: Collection[str]) -> str:
    """Return a hash of all that a layer keeps of a tree, but times of ``implied`` directories.

    What is no layer's is told apart too. Raises OSError.
    """
    if not store.inside.is_here:
        return store.inside.run(fingerprint, store, tree, implied)
    hashed = hashlib.sha256()
    try:
        root = os.open(tree, _DIRECTORY)
    except OSError as error:
        return str(error)
    try:
        for piece in pack.archive(_timeless(root, frozenset(map(os.fsencode, implied)))):
            hashed.update(piece)
    except (CellblockError, OSError, KeyError) as error:  # of what no layer can hold
        return f"{error} {hashed.hexdigest()}"
    finally:
        os.close(root)
    return hashed.hexdigest()


def _timeless(root: int, implied: Collection[bytes]) -> Iterator[tar.Entry | bytes]:
    for each in pack.entries(root, pack.read):
        if isinstance(each, bytes):
            yield each
        elif each.kind == tar.DIRECTORY and each.name.rstrip(b"/") in implied:
            yield each._replace(mtime_ns=0)
        else:
            yield each


def _packs_again(store: Store, diffid: Digest) -> bool:
    try:
        for _ in store.layers.archive(diffid):
            pass
    except InvalidLayer:
        return False
    return True
