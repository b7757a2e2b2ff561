"""Layers for a store, as a pull adds them: from a blob, whose diffID is what it unpacks to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.manifest import OCI_LAYER
from cellblock_engine.store import Store


def add_layer(store: Store, archive: Iterable[bytes]) -> tuple[Digest, int]:
    """Add the layer that an uncompressed archive is; return its diffID and the archive's size."""
    content = b"".join(archive)
    diffid = Digest.of(content)
    with tempfile.NamedTemporaryFile() as blob:
        blob.write(content)
        blob.flush()
        store.layers.extract(Path(blob.name), OCI_LAYER, diffid)
    return diffid, len(content)
