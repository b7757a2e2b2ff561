"""Layers that are copied: what else than the copies' equality, which test_pack sees to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine.errors import Conflict, InvalidLayer
from cellblock_engine.layout import Layout
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store
from cellblock_engine.store.copying import Adopted, Source
from cellblock_engine.store.pack import entries, pack
from cellblock_engine.store.tar import Entry
from cellblock_engine.store.unpacking import Caps
from support.treelist import differences, tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    (path / "a/b").mkdir(parents=True)
    (path / "a/one").write_bytes(b"1" * 3_000_000)
    (path / "a/b/two").write_bytes(b"2")
    (path / "a/b/empty").touch(0o600)
    os.link(path / "a/b/two", path / "a/three")
    os.setxattr(path / "a/one", "user.note", b"x")
    return path


@pytest.fixture
def root(source: Path) -> Iterator[int]:
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def content(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source]:
    yield Source(path, fd, 0, status.st_size, moving=False)


def staged(store: Store) -> list[str]:
    return os.listdir(store.staging._path)


def test_what_was_copied_is_taken_over(store: Store, layout: Layout, source: Path, root: int):
    expected = Digest.of(b"".join(pack(root)))

    def adopted(path: bytes, _: int, __: os.stat_result) -> Iterator[Adopted]:
        yield Adopted(first.root, path)

    with store.referencing():
        with store.layers.copying() as first:
            first.fill(entries(root, content))
            with store.layers.copying() as second:
                second.fill(entries(root, adopted))
                (source / "a/one").write_bytes(b"")  # is not read again
                diffid, _ = store.layers.keep(second)
        assert diffid == expected
        (source / "a/one").write_bytes(b"1" * 3_000_000)
        os.utime(source, ns=(0, 0))
        assert Digest.of(b"".join(store.layers.archive(diffid))) == expected
    assert (store.layers.path(diffid) / "a/three").stat().st_nlink == 2
    assert staged(store) == []
    assert os.listdir(layout.layers) == [diffid.hex]


def test_nothing_stays_of_what_is_not_kept(store: Store, layout: Layout, root: int):
    with store.referencing():
        with store.layers.copying() as copy:
            copy.fill(entries(root, content))
        with pytest.raises(InvalidLayer), store.layers.copying() as copy:
            copy.fill(iter([Entry(b"../x", b"0", 0, 0, 0, 0, 0, b"", (0, 0), {})]))
    assert staged(store) == []
    assert not layout.layers.exists()


def test_a_file_that_becomes_shorter(store: Store, source: Path, root: int):
    def shorter(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source]:
        yield Source(path, fd, 0, status.st_size + 5, moving=moving)

    with store.referencing():
        moving = False
        refused = pytest.raises(Conflict, match="'a/one' changed while it was read")
        with refused, store.layers.copying() as copy:
            copy.fill(entries(root, shorter))
        moving = True
        with store.layers.copying() as copy:
            copy.fill(entries(root, shorter))
            assert os.stat("a/one", dir_fd=copy.root).st_size == 3_000_005


def test_what_a_layer_holds_is_capped(layout: Layout, root: int):
    store = Store(layout, caps=Caps(max_entries=4))
    refused = pytest.raises(InvalidLayer, match="more than 4 entries")
    with store.referencing(), refused, store.layers.copying() as copy:
        copy.fill(entries(root, content))
    assert staged(store) == []


def test_one_that_is_there_stays(store: Store, source: Path, root: int):
    with store.referencing():
        made = []
        for _ in range(2):
            with store.layers.copying() as copy:
                copy.fill(entries(root, content))
                made.append(store.layers.keep(copy))
                inode = store.layers.path(made[0][0]).stat().st_ino
        assert made[0] == made[1]
        assert store.layers.path(made[0][0]).stat().st_ino == inode
    os.utime(source, ns=(0, 0))
    assert differences(tree(store.layers.path(made[0][0])), tree(source)) == []
