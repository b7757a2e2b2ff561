import json
import os
import threading
from collections.abc import Callable

import pytest

from cellblock_engine.errors import (
    CellblockError,
    Conflict,
    ImageNotFound,
    InvalidAnswer,
    InvalidReference,
    StoreError,
)
from cellblock_engine.layout import Layout
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.reference import Reference
from cellblock_engine.store import Store
from cellblock_engine.store.references import References
from cellblock_engine.store.staging import Staging
from support import tars

Extract = Callable[[Store, bytes], Digest]
Make = Callable[..., Digest]

BASE = tars.archive(tars.file(b"base", b"x" * 1000))
ALPHA = tars.archive(tars.file(b"alpha", b"x" * 200))
BETA = tars.archive(tars.file(b"beta", b"x" * 30))


def put(store: Store, data: bytes) -> dict[str, object]:
    digest = Digest.of(data)
    with store.blobs.writer(digest, len(data)) as writer:
        writer.write(data)
        writer.commit()
    return {"mediaType": "application/octet-stream", "digest": str(digest), "size": len(data)}


@pytest.fixture
def make(store: Store, extract: Extract) -> Make:
    """Put an image of these layers into the store, without a reference."""

    def made(*archives: bytes, created: str = "2024-01-01T00:00:00Z", cmd: str = "sh") -> Digest:
        config = {
            "os": "linux",
            "architecture": "amd64",
            "created": created,
            "config": {"Cmd": [cmd]},
            "rootfs": {"type": "layers", "diff_ids": [str(extract(store, a)) for a in archives]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(store, json.dumps(config).encode()),
            "layers": [put(store, archive) for archive in archives],
        }
        return Digest.parse(str(put(store, json.dumps(manifest).encode())["digest"]))

    return made


def ref(text: str) -> Reference:
    return Reference.parse(text)


def test_an_image_is_found_by_reference_and_id(store: Store, make: Make):
    manifest = make(BASE, ALPHA, cmd="true")
    image = store.images.add(ref("alpine:3"), manifest)
    assert image.references == (ref("docker.io/library/alpine:3"),)
    assert image.manifest == manifest
    assert image.layers == (Digest.of(BASE), Digest.of(ALPHA))
    assert image.size_bytes == 1200
    assert image.config.cmd == ("true",)
    assert image.created is not None
    for name in (
        "alpine:3",
        "docker.io/library/alpine:3",
        str(image.id),
        image.id.hex,
        image.id.short,
        image.id.hex[:5],
    ):
        assert store.images.resolve(name) == image
    assert store.images.list() == (image,)


@pytest.mark.parametrize(
    "name", ["alpine", "alpine:4", "fff0", "sha256:fff0", "sha256:" + "f" * 64, "f" * 64]
)
def test_unknown_images(store: Store, make: Make, name: str):
    store.images.add(ref("alpine:3"), make(BASE))
    with pytest.raises(ImageNotFound) as caught:
        store.images.resolve(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "../x", "sha256:../../x", "Upper", "a b", "md5:" + "0" * 32])
def test_names_that_cannot_be(store: Store, name: str):
    with pytest.raises((InvalidReference, ImageNotFound)):
        store.images.resolve(name)


def test_a_beginning_that_fits_two_is_refused(store: Store, make: Make):
    ids = []
    for number in range(17):  # two of seventeen share their first digit
        image = store.images.add(ref(f"i:{number}"), make(BASE, cmd=str(number)))
        ids.append(image.id.hex)
    first = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    with pytest.raises(ImageNotFound, match="more digits"):
        store.images.resolve(f"sha256:{first}")


def test_references_move_and_images_are_listed_once_newest_first(store: Store, make: Make):
    old, new = make(BASE, created="2020-01-01T00:00:00Z"), make(ALPHA)
    store.images.add(ref("app:1"), old)
    store.images.add(ref("app:latest"), old)
    store.images.add(ref("new"), new)
    assert [image.references for image in store.images.list()] == [
        (ref("new"),),
        (ref("app:1"), ref("app:latest")),
    ]
    store.images.add(ref("app:latest"), new)
    assert store.images.resolve("app").references == (ref("app:latest"), ref("new"))


def test_an_image_whose_parts_are_not_there_is_not_added(store: Store, make: Make, layout: Layout):
    with pytest.raises(StoreError):
        store.images.add(ref("a"), Digest.of(b"nothing"))
    manifest = make(BASE)
    os.rename(layout.layers / Digest.of(BASE).hex, layout.home / "elsewhere")
    with pytest.raises(StoreError, match="not in the store"):
        store.images.add(ref("a"), manifest)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [],
    }
    digest = Digest.parse(str(put(store, json.dumps(index).encode())["digest"]))
    with pytest.raises(InvalidAnswer, match="index"):
        store.images.add(ref("a"), digest)
    assert store.images.list() == ()


def content(layout: Layout) -> set[str]:
    return {
        f"{directory.name}/{name}"
        for directory in (layout.blobs, layout.layers, layout.references, layout.staging)
        for name in os.listdir(directory)
    }


def test_removing_frees_what_nothing_else_needs(store: Store, layout: Layout, make: Make):
    store.images.add(ref("alpha"), make(BASE, ALPHA))
    before = content(layout)
    image = store.images.add(ref("beta"), make(BASE, BETA))
    removed = store.images.remove("beta")
    assert removed.untagged == (ref("beta"),)
    assert removed.deleted == (image.id, Digest.of(BETA))
    assert removed.freed_bytes > 30 + len(BETA)
    assert content(layout) == before
    store.images.remove("alpha")
    assert content(layout) == set()
    assert os.listdir(layout.chains) == []
    with pytest.raises(ImageNotFound):
        store.images.remove("alpha")


def test_one_of_several_references_is_only_untagged(store: Store, layout: Layout, make: Make):
    manifest = make(BASE)
    image = store.images.add(ref("a"), manifest)
    store.images.add(ref("b"), manifest)
    removed = store.images.remove("a")
    assert (removed.untagged, removed.deleted, removed.freed_bytes) == ((ref("a"),), (), 0)
    store.images.add(ref("a"), manifest)
    with pytest.raises(Conflict, match="2 references"):
        store.images.remove(image.id.short)
    assert len(store.images.resolve("b").references) == 2
    assert store.images.remove(image.id.short, force=True).untagged == (ref("a"), ref("b"))
    assert content(layout) == set()


def test_a_tag_and_its_digest_are_not_several(store: Store, layout: Layout, make: Make):
    image = store.images.add(ref("a:1"), make(BASE))
    store.images.hold("a:1")
    store.images.tag("a:1", ref("b"))
    with pytest.raises(Conflict, match="3 references"):
        store.images.remove(image.id.short)
    assert store.images.remove("b").deleted == ()
    assert len(store.images.remove(image.id.short).untagged) == 2
    assert content(layout) == set()


def test_tags_move(store: Store, make: Make):
    first, second = make(BASE), make(ALPHA)
    store.images.add(ref("a"), first)
    store.images.add(ref("b"), second)
    image = store.images.tag("a", ref("b"))
    assert (image.manifest, image.references) == (first, (ref("a"), ref("b")))
    assert [known.manifest for known in store.images.list()] == [first]
    with pytest.raises(ImageNotFound):
        store.images.tag("unknown", ref("d"))
    assert store.images.tag("a", ref("a")).references == (ref("a"), ref("b"))


def test_what_a_registry_has_is_known_only_of_what_came_or_went_there(
    store: Store, make: Make, layout: Layout
):
    manifest = make(BASE)
    store.images.add(ref("r.test/pulled"), manifest, served=True)
    store.images.tag("r.test/pulled", ref("r.test/tagged"))
    blob = Digest.of(BASE)
    assert store.images.served("r.test") == {blob: "pulled"}
    assert store.images.served("docker.io") == {}
    store.images.add(ref("r.test/pulled"), make(ALPHA))  # a commit of that name
    assert store.images.served("r.test") == {}
    for path in layout.references.iterdir():  # as older versions wrote them
        known = json.loads(path.read_text())
        del known["served"]
        path.write_text(json.dumps(known))
    assert store.images.served("r.test") == {}
    assert len(store.images.list()) == 2


def test_blobs_are_found_by_layer(store: Store, make: Make, layout: Layout):
    store.images.add(ref("a"), make(BASE, ALPHA))
    packed = store.images.packed()
    assert {diffid: [b.digest for b in blobs] for diffid, blobs in packed.items()} == {
        Digest.of(BASE): [Digest.of(BASE)],
        Digest.of(ALPHA): [Digest.of(ALPHA)],
    }
    (layout.blobs / Digest.of(ALPHA).hex).unlink()
    assert set(store.images.packed()) == {Digest.of(BASE)}


def container(layout: Layout, **config: object) -> None:
    directory = layout.containers / "c1"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(
        json.dumps({"id": "c1", "name": "keen_noether", **config})
    )


def test_containers_keep_their_layers(store: Store, layout: Layout, make: Make):
    image = store.images.add(ref("a"), make(BASE, ALPHA))
    store.images.add(ref("b"), make(BETA))
    layers = [str(layer) for layer in image.layers]
    container(layout, image_id=str(image.id), layers=layers)
    with pytest.raises(Conflict, match="keen_noether"):
        store.images.remove("a")
    assert store.images.resolve("a") == image
    removed = store.images.remove("a", force=True)
    assert removed.deleted == (image.id,)
    assert len(store.layers.chain(image.layers)) == 2
    store.images.remove("b")
    assert store.layers.has(Digest.of(ALPHA))
    assert not store.layers.has(Digest.of(BETA))
    (layout.containers / "c1" / "config.json").unlink()
    assert set(store.images.collect()[0]) == set(image.layers)


def test_a_container_of_the_host_image_keeps_nothing(store: Store, layout: Layout, make: Make):
    store.images.add(ref("a"), make(BASE))
    container(layout, image_id=None, layers=[])
    assert store.images.remove("a").deleted
    assert not store.layers.has(Digest.of(BASE))


def test_nothing_is_collected_past_a_config_that_cannot_be_read(
    store: Store, layout: Layout, make: Make
):
    store.images.add(ref("a"), make(BASE))
    container(layout)
    (layout.containers / "c1" / "config.json").write_text("{")
    with pytest.raises(StoreError, match="c1"):
        store.images.collect()
    assert store.layers.has(Digest.of(BASE))


def test_nothing_is_collected_while_references_are_made(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cellblock_engine.store.images._GC_WAIT_S", 0.1)
    store.images.add(ref("a"), make(BASE))
    with store.referencing():
        removed = store.images.remove("a")
        assert removed.freed_bytes == 0
        assert store.layers.has(Digest.of(BASE))
        with pytest.raises(Conflict):
            store.images.collect()
    assert store.images.collect()[0] == (Digest.of(BASE),)


def test_a_damaged_reference_is_named(store: Store, layout: Layout, make: Make):
    store.images.add(ref("a"), make(BASE))
    (path,) = layout.references.iterdir()
    path.write_text("{}")
    with pytest.raises(StoreError, match=path.name):
        store.images.list()


def test_threads_may_list_add_and_remove(store: Store, make: Make):
    manifests = [make(BASE, cmd=str(n)) for n in range(3)]
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                with store.referencing():
                    store.images.add(ref(f"t:{number}"), manifests[number])
                store.images.list()
        except (CellblockError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.images.list()) == 3


def test_an_image_removed_while_references_are_read_is_not_missed(
    layout: Layout, store: Store, make: Make
) -> None:
    other = Store(layout)
    with store.referencing():
        store.images.add(Reference.parse("stays"), make(BASE))
        store.images.add(Reference.parse("goes"), make(BASE, ALPHA))

    def look(references: dict[Reference, Digest]) -> list[str]:
        if len(references) == 2:  # and now somebody else is faster
            other.images.remove("goes")
        return [str(name) for name in references if store.blobs.read(references[name], 9999)]

    assert References(layout, Staging(layout.staging)).steadily(look) == [
        "docker.io/library/stays:latest"
    ]
    assert store.images.resolve("stays").references == (Reference.parse("stays"),)


def test_a_manifest_that_is_missing_and_named_is_an_error(
    layout: Layout, store: Store, make: Make
) -> None:
    manifest = make(BASE)
    with store.referencing():
        store.images.add(Reference.parse("damaged"), manifest)
    store.blobs.discard(manifest)
    with pytest.raises(StoreError, match="not in the store: pull"):
        Store(layout).images.list()
