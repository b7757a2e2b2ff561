import _thread
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cellblock_engine.errors import (
    DigestMismatch,
    ImageNotFound,
    InvalidAnswer,
    InvalidLayer,
    PlatformNotFound,
    RegistryUnavailable,
    StoreFull,
)
from cellblock_engine.oci import manifest as m
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.platform import Platform
from cellblock_engine.oci.reference import Reference
from cellblock_engine.registry.patience import Patience
from cellblock_engine.registry.pull import pull
from support.fakeregistry import HOST_PLATFORM, Packed, an_image, digest_of, packed
from support.layouts import LayoutWriter, small_tar

ALIEN = {"os": "linux", "architecture": "s390x"}


@pytest.fixture
def get(store, patience):
    def get(reference, **more):
        return pull(Reference.parse(reference), store, patience=patience, **more)

    return get


@pytest.fixture(autouse=True)
def _nothing_half_done(request, layout):
    """Whatever a test did: no staging entry, thread or descriptor of a pull outlives it."""
    before = set(threading.enumerate())
    yield
    assert not list(layout.staging.glob("*"))
    mine = [t.name for t in set(threading.enumerate()) - before if t.name.startswith("cellblock")]
    assert mine == []


def tree(store, image):
    return {
        path.name: path.read_bytes()
        for layer in image.layers
        for path in store.layers.path(layer).iterdir()
    }


def an_index(*entries):
    document = {"schemaVersion": 2, "mediaType": m.OCI_INDEX, "manifests": list(entries)}
    return packed(document, m.OCI_INDEX)


def serve_index(fake, *entries):
    fake.serve_manifest(an_index(*entries))
    return f"{fake.host}/img:latest"


def test_an_image_arrives_with_all_its_layers(fake, get, store):
    parts = an_image(layers=6)
    reference = fake.serve(parts)
    image = get(reference)
    assert str(image.id) == parts.config.digest
    assert str(image.manifest) == parts.manifest.digest
    assert image.config.cmd == ("x",)
    assert tree(store, image) == {f"file{n}": b"%d\n" % n for n in range(6)}
    assert [found.id for found in store.images.list()] == [image.id]
    for blob in (parts.manifest, parts.config, *parts.layers):
        assert store.blobs.read(Digest.parse(blob.digest), 2**20) == blob.raw


def test_an_image_without_layers_is_refused(fake, get):
    with pytest.raises(InvalidAnswer, match="no layers"):
        get(fake.serve(an_image(layers=0)))


def test_a_layer_that_occurs_twice_is_fetched_once(fake, get):
    parts = an_image(layers=1)
    layer = parts.layers[0]
    config = json.loads(parts.config.raw)
    config["rootfs"]["diff_ids"] *= 2
    new_config = packed(config, m.OCI_CONFIG)
    document = json.loads(parts.manifest.raw)
    document |= {"config": new_config.descriptor(), "layers": [layer.descriptor()] * 2}
    fake.serve(parts)
    fake.serve_blob(new_config)
    fake.serve_manifest(packed(document, m.OCI_MANIFEST))
    assert len(get(f"{fake.host}/img").layers) == 2
    assert sum(layer.digest in path for path in fake.paths()) == 1


def test_what_is_there_is_not_fetched_again(fake, get):
    reference = fake.serve(an_image(layers=2))
    first = get(reference)
    fake.seen.clear()
    events = []
    assert get(reference, progress=events.append) == first
    assert {event.phase for event in events} == {"resolving", "exists", "done"}
    config = f"/v2/img/blobs/{first.id}"
    assert set(fake.paths()) <= {"/v2/img/manifests/latest", config}


def test_a_new_image_fetches_only_what_is_new(fake, get):
    get(fake.serve(an_image(layers=2)))
    fake.seen.clear()
    parts = an_image(layers=3)
    get(fake.serve(parts, tag="next"))
    fetched = [
        layer.digest for layer in parts.layers if any(layer.digest in p for p in fake.paths())
    ]
    assert fetched == [parts.layers[2].digest]


def test_what_does_not_fit_is_refused_before_it_is_fetched(fake, get, store, monkeypatch):
    get(fake.serve(an_image(layers=2)))
    parts = an_image(layers=4)
    reference = fake.serve(parts, tag="next")
    needed = sum(len(layer.raw) for layer in parts.layers[2:])
    room = {"free": needed - 1}
    here = os.statvfs(store.blobs.path(Digest.of(b"")).parents[2])

    def statvfs(_path):
        fields = list(here)
        fields[1] = 1  # f_frsize
        fields[3] = fields[4] = room["free"]  # f_bfree, f_bavail
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", statvfs)
    fake.seen.clear()
    with pytest.raises(StoreFull, match=rf"no space for {needed} B .* {needed - 1} B free"):
        get(reference)
    assert not any(layer.digest in path for layer in parts.layers for path in fake.paths())
    room["free"] = needed
    assert len(get(reference).layers) == 4


def test_progress_tells_every_step_of_every_layer(fake, get):
    parts = an_image(layers=3)
    events, inside = [], threading.Lock()

    def progress(event):
        assert inside.acquire(blocking=False), "two events at once"
        events.append(event)
        time.sleep(0.002)
        inside.release()

    reference = fake.serve(parts)
    get(reference, progress=progress)
    assert {event.reference for event in events} == {reference}
    whole = [event.phase for event in events if event.layer is None]
    assert whole == ["resolving", "done"]
    for layer in parts.layers:
        mine = [event for event in events if str(event.layer) == layer.digest]
        phases = list(dict.fromkeys(event.phase for event in mine))
        assert phases == ["waiting", "downloading", "extracting", "done"]
        assert {event.total_bytes for event in mine} == {len(layer.raw)}
        assert mine[-1].current_bytes == len(layer.raw)


def test_progress_that_raises_ends_the_pull(fake, get, store):
    def progress(event):
        if event.phase == "extracting":
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        get(fake.serve(an_image(layers=5)), progress=progress)
    assert store.images.list() == ()


def test_an_index_gives_the_image_for_this_machine(fake, get):
    alien, mine = an_image(platform=ALIEN), an_image(layers=2)
    for parts in (alien, mine):
        fake.serve(parts)
    attestation = an_image(layers=0).manifest.descriptor(
        platform={"os": "unknown", "architecture": "unknown"}
    )
    reference = serve_index(
        fake,
        attestation,
        alien.manifest.descriptor(platform=ALIEN),
        mine.manifest.descriptor(platform=HOST_PLATFORM),
    )
    assert str(get(reference).manifest) == mine.manifest.digest
    assert not any(alien.manifest.digest in path for path in fake.paths())


def test_another_platform_can_be_asked_for(fake, get):
    alien = an_image(platform=ALIEN)
    fake.serve(alien)
    reference = serve_index(fake, alien.manifest.descriptor(platform=ALIEN))
    image = get(reference, platform=Platform("linux", "s390x"))
    assert image.platform == Platform("linux", "s390x")


def test_a_platform_that_is_not_there_names_those_that_are(fake, get, layout):
    entries = [
        an_image().manifest.descriptor(platform={"os": "linux", "architecture": name})
        for name in ("s390x", "riscv64")
    ]
    unknown = an_image().manifest.descriptor(platform={"os": "unknown", "architecture": "unknown"})
    with pytest.raises(PlatformNotFound, match=r"there is: linux/riscv64, linux/s390x$"):
        get(serve_index(fake, *entries, unknown))
    assert not list(layout.blobs.glob("*"))


def test_an_image_of_another_platform_is_refused_without_an_index_too(fake, get):
    with pytest.raises(PlatformNotFound, match=r"there is: linux/s390x$"):
        get(fake.serve(an_image(platform=ALIEN)))


def test_an_index_entry_without_a_platform_is_told_by_its_config(fake, get):
    mine = an_image()
    fake.serve(mine)
    reference = serve_index(fake, mine.manifest.descriptor())
    assert str(get(reference).manifest) == mine.manifest.digest


@pytest.mark.attack(46)
def test_an_index_in_an_index_is_not_followed(fake, get):
    mine = an_image()
    fake.serve(mine)
    inner = an_index(mine.manifest.descriptor(platform=HOST_PLATFORM))
    fake.serve_manifest(inner, tag="inner")
    with pytest.raises(PlatformNotFound):
        get(serve_index(fake, inner.descriptor(platform=HOST_PLATFORM)))
    lying = inner.descriptor(platform=HOST_PLATFORM) | {"mediaType": m.OCI_MANIFEST}
    with pytest.raises(InvalidAnswer, match="refused"):
        get(serve_index(fake, lying))


@pytest.mark.attack(46)
def test_an_index_that_answers_with_itself_ends(fake, get):
    entry = an_image().manifest.descriptor(platform=HOST_PLATFORM)
    index = an_index(entry)
    fake.serve_manifest(index)
    fake.routes[f"/v2/img/manifests/{entry['digest']}"] = fake.routes["/v2/img/manifests/latest"]
    with pytest.raises(DigestMismatch):
        get(f"{fake.host}/img:latest")
    assert len(fake.seen) == 2


@pytest.mark.attack(57)
def test_a_tag_that_moves_meanwhile_does_not_mix(fake, get, store):
    old, new = an_image(layers=2), an_image(layers=2, contents=(b"new", b"new"))
    fake.serve(new, tag="unused")
    fake.serve(old)
    honest = fake.routes["/v2/img/manifests/latest"]

    def route(request):
        honest(request)
        fake.serve_manifest(new.manifest)

    fake.routes["/v2/img/manifests/latest"] = route
    image = get(f"{fake.host}/img")
    assert str(image.manifest) == old.manifest.digest
    assert tree(store, image) == {"file0": b"0\n", "file1": b"1\n"}


@pytest.mark.attack(57)
def test_by_digest_the_tag_is_never_asked(fake, get):
    parts = an_image()
    fake.serve(parts)
    get(f"{fake.host}/img:other@{parts.manifest.digest}")
    assert fake.paths()[0] == f"/v2/img/manifests/{parts.manifest.digest}"
    fake.serve_manifest(Packed(parts.config.raw, m.OCI_MANIFEST), tag=parts.manifest.digest)
    with pytest.raises(DigestMismatch):
        get(f"{fake.host}/img@{parts.manifest.digest}")


def other_bytes(parts, fake):
    layer = parts.layers[0]
    forged = bytes([layer.raw[0]]) + bytes(len(layer.raw) - 1)
    fake.routes[f"/v2/img/blobs/{layer.digest}"] = lambda request: request.answer(200, forged)


def truncated(parts, fake):
    layer = parts.layers[0]
    fake.routes[f"/v2/img/blobs/{layer.digest}"] = lambda request: request.answer(
        200, layer.raw[:-5]
    )


def cut_off(parts, fake):
    layer = parts.layers[0]

    def route(request):
        request.close_connection = True
        request.answer(200, layer.raw[:7], Content_Length=str(len(layer.raw)))

    fake.routes[f"/v2/img/blobs/{layer.digest}"] = route


def absent(parts, fake):
    del fake.routes[f"/v2/img/blobs/{parts.layers[0].digest}"]


def a_page(parts, fake):
    fake.routes[f"/v2/img/blobs/{parts.layers[0].digest}"] = lambda request: request.answer(
        200, b"<html>please log in</html>", Content_Type="text/html"
    )


def other_config(parts, fake):
    fake.routes[f"/v2/img/blobs/{parts.config.digest}"] = lambda request: request.answer(
        200, parts.config.raw.replace(b"linux", b"linuy")
    )


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (other_bytes, DigestMismatch),
        (truncated, DigestMismatch),
        (cut_off, RegistryUnavailable),
        (absent, ImageNotFound),
        (a_page, DigestMismatch),
        (other_config, DigestMismatch),
    ],
)
@pytest.mark.attack(43)
def test_damage_leaves_no_image_and_nothing_half_done(fake, get, store, layout, spoil, error):
    parts = an_image(layers=4)
    reference = fake.serve(parts)
    spoil(parts, fake)
    with pytest.raises(error) as caught:
        get(reference)
    assert "\n" not in str(caught.value)
    assert store.images.list() == ()
    for blob in layout.blobs.glob("*"):
        assert digest_of(blob.read_bytes()) == f"sha256:{blob.name}"
    fake.serve(parts)
    assert len(get(reference).layers) == 4


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_diff_ids_as_layers(fake, get, count):
    ids = [digest_of(bytes([n])) for n in range(count)]
    with pytest.raises(InvalidAnswer, match=f"2 layers, its config {count}"):
        get(fake.serve(an_image(layers=2, diff_ids=ids)))


@pytest.mark.attack(43)
def test_a_diff_id_that_is_not_the_layers_is_refused(fake, get, store):
    with pytest.raises(InvalidLayer) as caught:
        get(fake.serve(an_image(diff_ids=[digest_of(b"something else")])))
    assert "\n" not in str(caught.value)
    assert store.images.list() == ()


def test_what_is_no_image_is_refused_before_anything_is_loaded(fake, get, layout):
    parts = an_image()
    strange = [
        parts.layers[0].descriptor(mediaType="application/vnd.cncf.helm.chart.content.v1.tar")
    ]
    with pytest.raises(InvalidAnswer, match="not a container image"):
        get(fake.serve(an_image(manifest={"layers": strange})))
    odd = parts.config.descriptor(mediaType="application/vnd.oci.empty.v1+json")
    with pytest.raises(InvalidAnswer, match="not a container image"):
        get(fake.serve(an_image(manifest={"config": odd})))
    assert not list(layout.blobs.glob("*"))


@pytest.mark.attack(46)
def test_a_config_of_absurd_size_is_not_asked_for(fake, get):
    parts = an_image()
    huge = parts.config.descriptor(size=2**40)
    with pytest.raises(InvalidAnswer, match="allowed"):
        get(fake.serve(an_image(manifest={"config": huge})))
    assert len(fake.seen) == 1


@pytest.mark.attack(45)
def test_a_page_instead_of_a_manifest(fake, get):
    fake.routes["/v2/img/manifests/latest"] = lambda request: request.answer(
        200, b"<html></html>", Content_Type="text/html"
    )
    with pytest.raises(InvalidAnswer, match="is this address an image registry"):
        get(f"{fake.host}/img")


@pytest.fixture
def stalled(fake):
    """An image of two layers, the second of which never arrives; the event says it was asked."""
    parts = an_image(layers=2)
    reference = fake.serve(parts)
    asked, release = threading.Event(), threading.Event()

    def route(request):
        asked.set()
        request.send_response(200)
        request.send_header("Content-Length", str(len(parts.layers[1].raw)))
        request.end_headers()
        request.wfile.write(parts.layers[1].raw[:10])
        request.wfile.flush()
        release.wait(30)

    fake.routes[f"/v2/img/blobs/{parts.layers[1].digest}"] = route
    yield reference, parts, asked
    release.set()


def test_one_failure_stops_the_others_at_once(fake, store, stalled):
    reference, parts, asked = stalled

    def route(request):
        asked.wait(10)
        time.sleep(0.1)
        request.answer(200, bytes(len(parts.layers[0].raw)))

    fake.routes[f"/v2/img/blobs/{parts.layers[0].digest}"] = route
    started = time.monotonic()
    with pytest.raises(DigestMismatch):
        pull(Reference.parse(reference), store, patience=Patience(read_timeout_s=30))
    assert time.monotonic() - started < 5
    assert store.images.list() == ()


def signal_this_thread():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def signal_any_thread():
    _thread.interrupt_main(signal.SIGINT)  # wakes nobody, as when another thread got the signal


@pytest.mark.parametrize("send", [signal_this_thread, signal_any_thread])
def test_an_interrupt_in_the_calling_thread_stops_it_cleanly(store, stalled, send):
    reference, _, asked = stalled

    def interrupt():
        asked.wait(10)
        time.sleep(0.2)
        send()

    thread = threading.Thread(target=interrupt)
    thread.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pull(Reference.parse(reference), store, patience=Patience(read_timeout_s=30))
    thread.join()
    assert time.monotonic() - started < 5
    assert store.images.list() == ()


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_pulls_leave_no_descriptors(fake, get, store):
    reference = fake.serve(an_image(layers=3))
    get(reference)
    before = open_files()
    for number in range(5):
        parts = an_image(layers=2, contents=(b"%d" % number, b"x%d" % number))
        other_bytes(parts, fake)
        with pytest.raises(ImageNotFound):
            get(f"{fake.host}/img:nothing{number}")
        get(fake.serve(parts, tag=str(number)))
    # The server in this process ends its side of a connection a moment later.
    deadline = time.monotonic() + 5
    while open_files() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert open_files() <= before


def test_threads_that_pull_the_same_image_agree(fake, get):
    reference = fake.serve(an_image(layers=4))
    found = []
    threads = [threading.Thread(target=lambda: found.append(get(reference))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({image.id for image in found}) == 1


# Without Docker's schema 2 and zstd: skopeo has no name for such a layer.
@pytest.mark.parametrize(
    ("schema", "compression"),
    [("oci", "gzip"), ("oci", "zstd"), ("oci", "none"), ("v2s2", "gzip"), ("v2s2", "none")],
)
def test_a_real_registry(registry, get, store, tmp_path, schema, compression):
    writer = LayoutWriter(tmp_path / "layout")
    contents = {f"file{n}": b"%d" % n for n in range(3)}
    archives = [small_tar(tmp_path / f"{n}.tar", {n: c}) for n, c in contents.items()]
    writer.image([writer.layer(archive, compression) for archive in archives], {"User": "7"})
    reference = registry.push(writer.directory, f"pull-{schema}-{compression}", schema=schema)
    image = get(reference)
    assert tree(store, image) == contents
    assert image.config.user == "7"
    with pytest.raises(ImageNotFound, match="no tag 'nothing'"):
        get(reference.removesuffix("latest") + "nothing")
    with pytest.raises(ImageNotFound, match="no-such-image"):
        get(f"{registry.host}/no-such-image")
