import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine.errors import DigestMismatch, StoreError
from cellblock_engine.layout import Layout
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store

DATA = b"content" * 1000
DIGEST = Digest.of(DATA)


def put(store: Store, data: bytes, digest: Digest = DIGEST, size: int = len(DATA)) -> None:
    with store.blobs.writer(digest, size) as writer:
        for at in range(0, len(data), 999):
            writer.write(data[at : at + 999])
        writer.commit()


def test_a_blob_is_there_once_committed(store: Store, layout: Layout):
    assert not store.blobs.has(DIGEST)
    with store.blobs.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA)
        assert not store.blobs.has(DIGEST)
        writer.commit()
    assert store.blobs.has(DIGEST)
    assert store.blobs.read(DIGEST, len(DATA)) == DATA
    assert store.blobs.path(DIGEST) == layout.home / "blobs" / "sha256" / DIGEST.hex
    assert store.blobs.path(DIGEST).stat().st_mode & 0o777 == 0o600
    put(store, DATA)
    assert os.listdir(layout.staging) == []


@pytest.mark.parametrize(
    ("data", "digest", "size"),
    [
        (DATA[:-1], DIGEST, len(DATA)),
        (DATA + b"x", DIGEST, len(DATA)),
        (DATA[:-1] + b"x", DIGEST, len(DATA)),
        (DATA, Digest.of(b""), len(DATA)),
        (b"", DIGEST, len(DATA)),
    ],
)
@pytest.mark.attack(43)
def test_other_content_is_refused_and_leaves_nothing(
    store: Store, layout: Layout, data: bytes, digest: Digest, size: int
):
    with pytest.raises(DigestMismatch):
        put(store, data, digest, size)
    assert not store.blobs.has(digest)
    assert os.listdir(layout.staging) == []


def test_what_is_not_committed_does_not_stay(store: Store, layout: Layout):
    with (
        contextlib.suppress(KeyboardInterrupt),
        store.blobs.writer(DIGEST, len(DATA)) as writer,
    ):
        writer.write(DATA)
        raise KeyboardInterrupt
    with store.blobs.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA)
    assert not store.blobs.has(DIGEST)
    assert os.listdir(layout.staging) == []


def test_reading_verifies_and_is_capped(store: Store, tmp_path: Path):
    put(store, DATA)
    with pytest.raises(StoreError, match="more than"):
        store.blobs.read(DIGEST, len(DATA) - 1)
    store.blobs.path(DIGEST).write_bytes(b"damage")
    with pytest.raises(DigestMismatch):
        store.blobs.read(DIGEST, len(DATA))
    store.blobs.path(DIGEST).unlink()
    with pytest.raises(StoreError, match=DIGEST.short):
        store.blobs.read(DIGEST, len(DATA))


@pytest.mark.attack(47)
def test_links_in_place_of_blobs_are_not_followed(store: Store, tmp_path: Path):
    put(store, DATA)
    (tmp_path / "secret").write_bytes(DATA)
    store.blobs.path(DIGEST).unlink()
    store.blobs.path(DIGEST).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        store.blobs.read(DIGEST, len(DATA))


def test_a_blob_is_made_whose_digest_shows_at_its_end(store: Store, layout: Layout):
    pieces = [DATA[at : at + 999] for at in range(0, len(DATA), 999)]
    assert store.blobs.add(pieces) == (DIGEST, len(DATA))
    assert b"".join(store.blobs.pieces(DIGEST)) == DATA
    assert b"".join(store.blobs.pieces(DIGEST, 5000)) == DATA[5000:]
    assert list(store.blobs.pieces(DIGEST, len(DATA))) == []
    assert store.blobs.path(DIGEST).stat().st_mode & 0o777 == 0o600

    def failing() -> Iterator[bytes]:
        yield DATA
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.blobs.add(failing())
    assert os.listdir(layout.staging) == []
    with pytest.raises(StoreError, match="not in the store"):
        next(store.blobs.pieces(Digest.of(b"none")))
