"""Archives written byte by byte: what Docker, skopeo and umoci write, and what nobody should."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from cellblock_engine import Engine, InvalidArchive, InvalidLayer, PlatformNotFound, StoreError
from cellblock_engine.layout import Layout
from cellblock_engine.oci import manifest as m
from support import tars
from support.fakeregistry import HOST_PLATFORM, Packed, a_layer, an_image, digest_of, packed

TAR, GZIPPED = a_layer("file", b"content\n")


def config_of(*archives: bytes) -> bytes:
    ids = [digest_of(archive) for archive in archives]
    document = {**HOST_PLATFORM, "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}
    return json.dumps(document).encode()


def docker(*more: bytes, layer: bytes = TAR, tags: object = ("a:1",), **entry: object) -> bytes:
    """Return what docker save writes of an image of one layer; ``entry`` puts lies in it."""
    said = {"Config": "c.json", "RepoTags": tags, "Layers": ["l/layer.tar"]} | entry
    return tars.archive(
        tars.file(b"c.json", config_of(TAR)),
        tars.directory(b"l/"),
        tars.file(b"l/layer.tar", layer),
        *more,
        tars.file(b"manifest.json", json.dumps([said]).encode()),
    )


def layout(*blobs: Packed, index: object, more: tuple[bytes, ...] = ()) -> bytes:
    """Return an archive of an OCI layout."""
    return tars.archive(
        tars.file(b"oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        *(
            tars.file(b"./blobs/sha256/" + blob.digest[7:].encode(), blob.raw)
            for blob in {blob.digest: blob for blob in blobs}.values()
        ),
        *more,
        tars.file(b"index.json", json.dumps(index).encode()),
    )


def index_of(*entries: dict) -> dict:
    return {"schemaVersion": 2, "mediaType": m.OCI_INDEX, "manifests": list(entries)}


def named(blob: Packed, name: str) -> dict:
    return blob.descriptor(annotations={"io.containerd.image.name": name})


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


PARTS = an_image(layers=2)
BLOBS = (PARTS.manifest, PARTS.config, *PARTS.layers)


@pytest.mark.parametrize("layer", [TAR, GZIPPED])
@pytest.mark.parametrize("packing", [bytes, gzip.compress])
def test_docker_archives(engine: Engine, tmp_path: Path, layer: bytes, packing) -> None:
    file = put(tmp_path / "in", packing(docker(layer=layer)))
    (image,) = engine.load(file)
    assert str(image.id) == digest_of(config_of(TAR))
    assert image.references[0].familiar == "a:1"
    assert engine.load(file) == (image,)


def test_a_stream(engine: Engine, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with open(write_end, "wb") as sink:
        sink.write(docker())
    with open(read_end, "rb") as source:
        (image,) = engine.load(source)
    assert engine.image("a:1").id == image.id


def test_dockers_link_to_the_same_layer(engine: Engine, tmp_path: Path) -> None:
    archive = docker(
        tars.symlink(b"k/layer.tar", b"../l/layer.tar"), Layers=["k/layer.tar"], tags=None
    )
    (image,) = engine.load(put(tmp_path / "in", archive))
    assert str(image.references[0]).startswith("localhost/nameless@sha256:")


def test_a_layout_keeps_its_digests(engine: Engine, tmp_path: Path) -> None:
    index = index_of(named(PARTS.manifest, "docker.io/library/a:1"))
    (image,) = engine.load(put(tmp_path / "in", layout(*BLOBS, index=index)))
    assert str(image.manifest) == PARTS.manifest.digest


def test_of_an_index_the_image_of_this_machine_is_taken(engine: Engine, tmp_path: Path) -> None:
    other = an_image(platform={"os": "linux", "architecture": "s390x"})
    entries = (
        other.manifest.descriptor(platform={"os": "linux", "architecture": "s390x"}),
        PARTS.manifest.descriptor(platform=HOST_PLATFORM),
    )
    inner = packed(index_of(*entries), m.OCI_INDEX)
    archive = layout(inner, *BLOBS, index=index_of(named(inner, "a:1")))
    (image,) = engine.load(put(tmp_path / "in", archive))
    assert str(image.manifest) == PARTS.manifest.digest


FIRST = named(PARTS.manifest, "a:1")
NESTED = packed(index_of(packed(index_of(FIRST), m.OCI_INDEX).descriptor()), m.OCI_INDEX)
REFUSED = {
    "nothing": b"",
    "no archive": b"x" * 4096,
    "no images": tars.archive(tars.file(b"manifest.json", b"[]")),
    "another archive": tars.archive(tars.file(b"file")),
    "cut in a file": docker()[:2000],
    "cut compressed": gzip.compress(docker())[:-20],
    "twice": docker(tars.file(b"l/layer.tar", b"other")),
    "a file and a link": docker(tars.symlink(b"c.json", b"l/layer.tar")),
    "negative": docker(tars.header(b"x", size=-512)),
    "sparse": docker(tars.header(b"x", b"S", size=2**62)),
    "long name": docker(tars.gnu_long(b"n" * 2000), tars.file(b"x")),
    "to the host": docker(tars.symlink(b"k", b"/etc/passwd"), Layers=["k"]),
    "out of it": docker(tars.symlink(b"k", b"../../etc/passwd"), Layers=["k"]),
    "a hard link out": docker(tars.hard_link(b"k", b"/etc/passwd"), Layers=["k"]),
    "a cycle": docker(tars.symlink(b"k", b"j"), tars.symlink(b"j", b"k"), Layers=["k"]),
    "a FIFO": docker(tars.header(b"k", b"6"), Layers=["k"]),
    "a path": docker(Layers=["/etc/passwd"]),
    "no layers": docker(Layers=[]),
    "too many layers": docker(Layers=["l/layer.tar"] * 2),
    "another layer": docker(layer=a_layer("file", b"changed\n")[0]),
    "a large config": docker(tars.file(b"big", b" " * (m.MAX_MANIFEST_BYTES + 1)), Config="big"),
    "host": docker(tags=["host:latest"]),
    "a malformed name": docker(tags=["A:1"]),
    "names that are no list": docker(tags="a:1"),
    "a digest": docker(tags=[f"a@sha256:{'0' * 64}"]),
    "no manifest": layout(PARTS.config, *PARTS.layers, index=index_of(FIRST)),
    "no layer": layout(PARTS.manifest, PARTS.config, index=index_of(FIRST)),
    "another blob": layout(
        Packed(b"{}", "x"),
        index=index_of(FIRST),
        more=(tars.file(b"blobs/sha256/" + PARTS.manifest.digest[7:].encode(), b"{}"),),
    ),
    "another size": layout(*BLOBS, index=index_of(FIRST | {"size": 7})),
    "a digest that is a path": layout(*BLOBS, index=index_of(FIRST | {"digest": "sha256:../x"})),
    "an index in an index": layout(NESTED, *BLOBS, index=index_of(NESTED.descriptor())),
    "both": layout(*BLOBS, index=index_of(FIRST) | {"layers": []}),
    "the index is a manifest": layout(*BLOBS, index=json.loads(PARTS.manifest.raw)),
    "two images of one name": layout(
        *BLOBS,
        *(other := an_image(layers=1)).layers,
        other.manifest,
        other.config,
        index=index_of(FIRST, named(other.manifest, "a:1")),
    ),
}


@pytest.mark.attack(37, 38, 43, 44, 45, 46)
@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line_and_nothing_is_left(engine: Engine, tmp_path: Path, what: str) -> None:
    with pytest.raises((StoreError, PlatformNotFound)) as caught:
        engine.load(put(tmp_path / "in", REFUSED[what]))
    assert "\n" not in str(caught.value)
    assert engine.images() == ()
    staging = Layout.default(engine.home).staging
    assert not staging.is_dir() or not os.listdir(staging)


@pytest.mark.attack(43)
def test_a_layer_that_is_not_what_the_config_says(engine: Engine, tmp_path: Path) -> None:
    other = gzip.compress(a_layer("file", b"changed\n")[0])
    with pytest.raises(InvalidLayer, match="not to what the image's config promises"):
        engine.load(put(tmp_path / "in", docker(layer=other)))
    assert engine.images() == ()


@pytest.mark.attack(37)
def test_a_bomb_ends_early(engine: Engine, tmp_path: Path, monkeypatch) -> None:
    from cellblock_engine.archive import source
    from cellblock_engine.store.unpacking import Caps

    monkeypatch.setattr(source, "Caps", lambda: Caps(floor_bytes=2**20, ratio=10))
    with pytest.raises(InvalidArchive, match="unpack to more than"):
        engine.load(put(tmp_path / "in", gzip.compress(bytes(2**26))))


@pytest.mark.attack(47)
@pytest.mark.parametrize("what", ["link", "directory link", "fifo"])
def test_a_layouts_directory_leads_nowhere_else(engine: Engine, tmp_path: Path, what: str) -> None:
    directory, outside = tmp_path / "layout", tmp_path / "outside"
    for place in (directory, outside):
        (place / "blobs" / "sha256").mkdir(parents=True)
    put(directory / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    put(directory / "index.json", json.dumps(index_of(FIRST)).encode())
    for blob in BLOBS:
        put(directory / "blobs" / "sha256" / blob.digest[7:], blob.raw)
        put(outside / "blobs" / "sha256" / blob.digest[7:], blob.raw)
    assert engine.load(directory)
    engine.remove_image("a:1")
    victim = directory / "blobs" / "sha256" / PARTS.layers[0].digest[7:]
    if what == "link":
        victim.unlink()
        victim.symlink_to(outside / "blobs" / "sha256" / victim.name)
    elif what == "fifo":
        victim.unlink()
        os.mkfifo(victim)
    else:
        (directory / "blobs").rename(tmp_path / "moved")
        (directory / "blobs").symlink_to(outside / "blobs")
    with pytest.raises(InvalidArchive, match="no regular file"):
        engine.load(directory)
    assert engine.images() == ()
