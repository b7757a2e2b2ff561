"""A store in a temporary directory, and layers made by hand."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cellblock_engine.layout import Layout
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store
from cellblock_engine.store.trees import remove_tree

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

Extract = Callable[[Store, bytes], Digest]
Unpack = Callable[[bytes], Path]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store", tmp_path / "run")


@pytest.fixture
def store(layout: Layout) -> Store:
    return Store(layout)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store whose unpacker is started once for the module's many small layers."""
    home = tmp_path_factory.mktemp("store")
    opened = Store(Layout(home / "home", home / "run"))
    with opened.layers.warm():
        yield opened
    remove_tree(home)  # pytest's own way to clean up recurses, and there are deep trees here


@pytest.fixture(scope="module")
def extract(tmp_path_factory: pytest.TempPathFactory) -> Extract:
    """Extract an archive, gzipped, into a store and return its diffID."""
    directory = tmp_path_factory.mktemp("blobs")

    def extracted(store: Store, archive: bytes) -> Digest:
        blob = directory / hashlib.sha256(archive).hexdigest()
        blob.write_bytes(gzip.compress(archive, 1))
        diffid = Digest.of(archive)
        store.layers.extract(blob, GZIP, diffid)
        return diffid

    return extracted


@pytest.fixture
def unpack(shared_store: Store, extract: Extract) -> Unpack:
    """Unpack an archive as a layer and return its tree."""

    def unpacked(archive: bytes) -> Path:
        return shared_store.layers.path(extract(shared_store, archive))

    return unpacked
