"""Pushes to a registry that can misbehave in every way."""

from __future__ import annotations

import _thread
import gzip
import json
import os
import secrets
import signal
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cellblock_engine.errors import (
    AccessDenied,
    CellblockError,
    DigestMismatch,
    InvalidAnswer,
    RegistryUnavailable,
    StoreFull,
)
from cellblock_engine.oci import manifest as m
from cellblock_engine.oci.config import HistoryEntry
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.reference import Reference
from cellblock_engine.registry.auth import Credentials
from cellblock_engine.registry.patience import Patience
from cellblock_engine.registry.pull import pull
from cellblock_engine.registry.push import push
from support.fakeregistry import Packed, an_image, demand_tokens, digest_of, packed
from support.fakeuploads import accept, cut
from support.layers import add_layer

BIG = 3_000_000


@pytest.fixture
def patience(patience):
    """More of it than for pulls: an attempt too many is not what these tests count."""
    return replace(patience, read_timeout_s=4.0, answer_timeout_s=5.0)


@pytest.fixture
def parts():
    return an_image(layers=3, contents=(os.urandom(BIG),))


@pytest.fixture
def uploads(other):
    return accept(other)


@pytest.fixture
def target(uploads):
    return Reference.parse(f"{uploads.registry.host}/to/here:1")


@pytest.fixture
def tagged(fake, store, parts, patience, target):
    """The image is pulled from one registry, and has a name in another."""
    source = Reference.parse(fake.serve(parts))
    pull(source, store, patience=patience)
    with store.referencing():
        return store.images.tag(str(source), target)


@pytest.fixture
def send(store, patience, tagged, target):
    def send(reference=target, **more):
        return push(reference, store, patience=patience, **more)

    return send


@pytest.fixture(autouse=True)
def _nothing_half_done(layout):
    """Whatever a test did: no staging entry or thread of a push outlives it."""
    before = set(threading.enumerate())
    yield
    assert not list(layout.staging.glob("*"))
    mine = [t.name for t in set(threading.enumerate()) - before if t.name.startswith("cellblock")]
    assert mine == []


def assert_there(uploads, parts):
    for blob in (parts.config, *parts.layers):
        assert uploads.blobs["to/here", blob.digest] == blob.raw
    assert uploads.manifests["to/here", "1"] == (parts.manifest.raw, m.OCI_MANIFEST)


def derived(store, base, name):
    """Add an image whose layer of one file has no blob, as a commit does."""
    with store.referencing():
        diffid, size = add_layer(store, [_archive(b"from a commit\n")])
        step = HistoryEntry(datetime.now(UTC), "x", "", "", empty_layer=False)
        layer = m.Descriptor(m.OCI_LAYER, diffid, size)
        return store.images.derive(base.manifest, layer, step, name)


def _archive(content):
    from cellblock_engine.store import pax, tar

    root = tar.Entry(b"./", tar.DIRECTORY, 0, 0o755, 0, 0, 0, b"", (0, 0), {})
    file = tar.Entry(b"new", tar.FILE, len(content), 0o644, 0, 0, 0, b"", (0, 0), {})
    return b"".join(
        (pax.encode(root), pax.encode(file), content, pax.padding(len(content)), pax.END)
    )


def test_everything_arrives_and_the_manifest_last(send, uploads, parts, tagged):
    events = []
    assert send(progress=events.append).manifest == tagged.manifest
    assert_there(uploads, parts)
    assert uploads.log[-1] == "PUT /v2/to/here/manifests/1"
    assert {event.phase for event in events} == {
        "resolving", "waiting", "uploading", "done",
    }  # fmt: skip
    of_big = [e.current_bytes for e in events if e.layer == tagged.layers[0]]
    assert of_big == sorted(of_big)


def test_a_second_push_uploads_nothing(send, uploads):
    send()
    uploads.log.clear()
    send()
    assert {line.partition(" ")[0] for line in uploads.log} == {"HEAD", "PUT"}
    assert uploads.count("PUT") == 1


def test_what_was_pulled_beside_it_is_mounted(fake, store, parts, patience):
    source = Reference.parse(fake.serve(parts))
    uploads = accept(fake)
    uploads.mountable = {parts.layers[0].digest}
    pull(source, store, patience=patience)
    target = Reference.parse(f"{fake.host}/to/here:1")
    with store.referencing():
        store.images.tag(str(source), target)
    events = []
    push(target, store, patience=patience, progress=events.append)
    asked = [line for line in uploads.log if "mount=" in line]
    assert len(asked) == 3
    assert all(line.endswith("&from=img") for line in asked)
    sent = [digest_of(bytes(blob)) for blob in uploads.blobs.values() if blob != b"mounted"]
    assert set(sent) == {b.digest for b in (parts.config, *parts.layers[1:])}
    assert [event.phase for event in events].count("mounted") == 1
    assert uploads.count("POST") == 4  # an upload that a mount became is used


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_mount_that_is_refused_is_an_upload(fake, store, parts, patience, status):
    source = Reference.parse(fake.serve(parts))
    uploads = accept(fake)
    pull(source, store, patience=patience)
    target = Reference.parse(f"{fake.host}/to/here:1")
    with store.referencing():
        store.images.tag(str(source), target)

    def refuse(request):
        if "mount=" in request.path:
            request.answer(status, WWW_Authenticate='Basic realm="x"')
            return True
        return False

    uploads.misbehave["POST"] = refuse
    push(target, store, patience=patience, keyring=lambda host: Credentials("anna", "secret"))
    assert_there(uploads, parts)


def test_a_name_that_moves_meanwhile_stays_where_it_went(
    fake, store, patience, tagged, target, uploads
):
    image = derived(store, tagged, target)
    newer = pull(Reference.parse(fake.serve(an_image(), "newer")), store, patience=patience)

    def progress(event):
        if event.phase == moment and store.images.resolve(str(target)).id != newer.id:
            store.images.tag(str(newer.id), target)

    for moment in ("packing", "uploading"):  # noqa: B007 - progress reads it
        store.images.add(target, image.manifest)
        uploads.blobs.clear()
        pushed = push(target, store, patience=patience, progress=progress)
        assert pushed.id == image.id
        assert Digest.of(uploads.manifests["to/here", "1"][0]) == pushed.manifest
        assert store.images.resolve(str(target)).id == newer.id


def test_names_that_no_registry_knows_are_not_told(store, patience, send, uploads, tagged, other):
    secret = Reference.parse(f"{other.host}/z/secret")
    with store.referencing():
        store.images.tag(str(tagged.id), secret)
    send()
    assert not [line for line in uploads.log if "secret" in line or "mount" in line]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_layer_without_a_blob_is_packed(
    store, patience, uploads, tagged, target, layout, compression
):
    image = derived(store, tagged, target)
    pushed = push(target, store, patience=patience, compression=compression)
    assert (pushed.id, pushed.layers) == (image.id, image.layers)
    raw, _ = uploads.manifests["to/here", "1"]
    assert Digest.of(raw) == pushed.manifest == store.images.resolve(str(target)).manifest
    document = json.loads(raw)
    old = json.loads((layout.blobs / image.manifest.hex).read_bytes())
    assert document["layers"][:-1] == old["layers"][:-1]
    assert document["config"] == old["config"]
    sent = uploads.blobs["to/here", document["layers"][-1]["digest"]]
    assert document["layers"][-1]["size"] == len(sent)
    if compression == "none":
        assert (raw, digest_of(sent)) == (json.dumps(old).encode(), str(image.layers[-1]))
        assert not store.blobs.has(image.layers[-1])
    if compression == "gzip":
        assert digest_of(gzip.decompress(sent)) == str(image.layers[-1])
    store.images.remove(str(target), force=True)
    again = pull(target, store, patience=patience)
    assert (again.id, again.layers, again.manifest) == (image.id, image.layers, pushed.manifest)


def test_a_push_that_failed_packs_nothing_again(store, patience, uploads, tagged, target):
    image = derived(store, tagged, target)

    def refuse(request):
        request.rfile.read(int(request.headers["Content-Length"]))
        request.answer(500)
        return True

    uploads.misbehave["PATCH"] = refuse
    with pytest.raises(RegistryUnavailable):
        push(target, store, patience=patience)
    assert store.images.resolve(str(target)).id == image.id
    uploads.misbehave.clear()
    events = []
    push(target, store, patience=patience, progress=events.append)
    assert "packing" not in {event.phase for event in events}


def test_a_layer_whose_own_blob_was_never_fetched(fake, store, patience, uploads, target, parts):
    """It is here by another image, otherwise packed: that blob is sent for it."""
    pull(Reference.parse(fake.serve(parts)), store, patience=patience)
    repacked = [
        Packed(gzip.compress(gzip.decompress(layer.raw), 9, mtime=0), layer.media_type)
        for layer in parts.layers
    ]
    document = json.loads(parts.manifest.raw)
    document["layers"] = [layer.descriptor() for layer in repacked]
    document["annotations"] = {"kept": "yes"}
    for layer in repacked:
        fake.serve_blob(layer, "second")
    fake.serve_blob(parts.config, "second")
    fake.serve_manifest(packed(document, m.OCI_MANIFEST), "second")
    source = Reference.parse(f"{fake.host}/second")
    image = pull(source, store, patience=patience)
    with store.referencing():
        store.images.tag(str(source), target)
    pushed = push(target, store, patience=patience)
    assert pushed.id == image.id
    sent = json.loads(uploads.manifests["to/here", "1"][0])
    assert sent["annotations"] == {"kept": "yes"}
    assert [each["digest"] for each in sent["layers"]] == [each.digest for each in parts.layers]


@pytest.mark.attack(53)
def test_layers_with_addresses_of_their_own_are_not_sent(
    fake, store, patience, uploads, target, parts
):
    document = json.loads(parts.manifest.raw)
    foreign = document["layers"][0]
    foreign |= {"mediaType": m.OCI_FOREIGN_LAYER + "+gzip", "urls": ["https://maker.test/layer"]}
    fake.serve(parts)
    fake.serve_manifest(packed(document, m.OCI_MANIFEST))
    source = Reference.parse(f"{fake.host}/img")
    pull(source, store, patience=patience)
    with store.referencing():
        store.images.tag(str(source), target)
    push(target, store, patience=patience)
    assert not [line for line in uploads.log if foreign["digest"] in line]
    assert json.loads(uploads.manifests["to/here", "1"][0])["layers"][0] == foreign


# What breaks off


@pytest.mark.attack(55)
def test_a_cut_upload_goes_on_where_it_was(send, uploads, parts):
    sent = []
    cutting = cut(uploads, 2_000_000)

    def patch(request):
        if int(request.headers["Content-Length"]) > 500_000:
            sent.append((request.headers.get("Content-Range"), request.headers["Content-Length"]))
            return cutting(request)
        return False

    uploads.misbehave["PATCH"] = patch
    send()
    assert_there(uploads, parts)
    size = len(parts.layers[0].raw)
    assert sent == [(None, str(size)), (f"2000000-{size - 1}", str(size - 2_000_000))]
    assert uploads.count("GET") == 1


@pytest.mark.attack(55)
@pytest.mark.parametrize("keep", [0, 1, 10])
def test_an_upload_that_is_always_cut_ends(send, uploads, keep):
    uploads.misbehave["PATCH"] = cut(uploads, keep, times=10_000)
    with pytest.raises(RegistryUnavailable, match="3 times") as caught:
        send()
    assert "\n" not in str(caught.value)
    assert uploads.manifests == {}
    assert uploads.count("PATCH") < 20


@pytest.mark.attack(55)
def test_a_lost_upload_is_begun_anew(send, uploads, parts):
    cutting = cut(uploads, 2_000_000)

    def lose(request):
        handled = cutting(request)
        if handled:
            uploads.sessions.clear()
        return handled

    uploads.misbehave["PATCH"] = lose
    send()
    assert_there(uploads, parts)


@pytest.mark.attack(55)
def test_an_answer_that_is_lost_is_not_missed(send, uploads, parts):
    """The registry has the blob, and says so too late."""

    def late(request):
        if "/manifests/" in request.path:
            return False
        uploads.misbehave.pop("PUT", None)
        session = request.path.partition("?")[0].rpartition("/")[2]
        content = bytes(uploads.sessions.pop(session))
        uploads.blobs["to/here", digest_of(content)] = content
        time.sleep(1)
        request.close_connection = True
        return True

    uploads.misbehave["PUT"] = late
    send()
    assert_there(uploads, parts)
    assert uploads.count("POST") == 4


def absurd(answer):
    def misbehave(request):
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        answer(request)
        return True

    return misbehave


ABSURD = {
    "no Location": ("POST", lambda request: request.answer(202)),
    "Location of a megabyte": ("POST", lambda r: r.answer(202, Location="/" + "x" * 30_000)),
    "Location that is none": ("POST", lambda r: r.answer(202, Location="ftp://x/y")),
    "Location with a user": ("POST", lambda r: r.answer(202, Location="https://a:b@x/y")),
    "too much arrived": ("PATCH", lambda r: r.answer(202, Location="/v2/x", Range="0-9999999999")),
    "a Range that is none": ("PATCH", lambda r: r.answer(202, Location="/v2/x", Range="x" * 9999)),
    "endless 202": ("PATCH", lambda r: r.answer(202, Location=r.path, Range="0-5")),
    "PUT answers 202": ("PUT", lambda request: request.answer(202, Location=request.path)),
    "500": ("PATCH", lambda request: request.answer(500)),
    "429": ("POST", lambda request: request.answer(429, Retry_After="99999999")),
    "429 while sending": ("PATCH", lambda r: r.answer(429, Retry_After="99999999")),
    "400": ("PUT", lambda request: request.answer(400, b"{" * 99_999)),
    "405": ("POST", lambda request: request.answer(405)),
    "redirects of uploads": ("PATCH", lambda r: r.answer(307, Location=r.path)),
    "redirects of POST": ("POST", lambda r: r.answer(307, Location=r.path)),
    "204 for a HEAD": ("HEAD", lambda request: request.answer(204)),
    "401 without end": ("PATCH", lambda r: r.answer(401, WWW_Authenticate="Basic realm=x")),
    "413": ("PATCH", lambda request: request.answer(413)),
}


@pytest.mark.attack(56)
@pytest.mark.parametrize("case", ABSURD)
def test_absurd_answers_end_in_one_line(send, uploads, case):
    method, answer = ABSURD[case]
    uploads.misbehave[method] = absurd(answer)
    started = time.monotonic()
    with pytest.raises((InvalidAnswer, RegistryUnavailable, AccessDenied)) as caught:
        send(keyring=lambda host: Credentials("anna", "secret"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert time.monotonic() - started < 5
    assert len(uploads.log) < 60
    assert uploads.manifests == {}


def test_a_manifest_that_is_taken_for_another_is_told(send, uploads):
    wrong = "sha256:" + "0" * 64

    def put(request):
        if "/manifests/" not in request.path:
            return False
        request.rfile.read(int(request.headers["Content-Length"]))
        request.answer(201, Docker_Content_Digest=wrong)
        return True

    uploads.misbehave["PUT"] = put
    with pytest.raises(DigestMismatch, match=wrong):
        send()


# Who learns what


@pytest.mark.attack(51)
def test_an_upload_on_another_host_gets_no_credentials(send, uploads, fake, parts):
    """The registry is at another origin than where its uploads go."""
    elsewhere = accept(fake)
    elsewhere.blobs = uploads.blobs

    def post(request):
        if request.headers.get("Authorization") is None:
            request.answer(401, WWW_Authenticate='Basic realm="x"')
            return True
        elsewhere.sessions[name := secrets.token_hex(8)] = bytearray()
        request.answer(202, Location=f"{fake.url}/v2/to/here/blobs/uploads/{name}")
        return True

    uploads.misbehave["POST"] = post
    fake.seen.clear()
    send(keyring=lambda host: Credentials("anna", "secret"))
    assert_there(uploads, parts)
    assert len(fake.seen) == 8
    assert not [headers for _, headers in fake.seen if "Authorization" in headers]
    assert [headers for _, headers in uploads.registry.seen if "Authorization" in headers]


def test_a_token_to_push_is_asked_for(send, uploads, other, target, parts):
    routes, known = {}, Credentials("anna", "secret")
    other.routes = routes
    asked = demand_tokens(other, {known.header})
    give, open_to_all = other.routes["/token"], other.otherwise

    def guarded(request):
        if request.headers.get("Authorization") == "Bearer good":
            open_to_all(request)
        else:
            request.rfile.read(int(request.headers.get("Content-Length") or 0))
            challenge = f'Bearer realm="{other.url}/token",service="svc"'
            request.answer(401, WWW_Authenticate=challenge)

    other.otherwise = guarded
    send(keyring=lambda host: known)
    assert_there(uploads, parts)
    assert give is other.routes["/token"]
    assert {scope for query in asked for scope in query["scope"]} == {
        "repository:to/here:pull,push"
    }


@pytest.mark.attack(56)
def test_a_stranger_may_not_push(send, uploads):
    def refuse(request):
        request.answer(403, b'{"errors": [{"code": "DENIED", "message": "not\\n\\u001b[1myou"}]}')
        return True

    uploads.misbehave["POST"] = refuse
    with pytest.raises(AccessDenied, match=r"not +\[1myou\): log in to .* first") as caught:
        send()
    assert "\x1b" not in str(caught.value)


# What ends it from here


def test_an_interrupt_ends_it(store, tagged, target, uploads):
    arrived, release = threading.Event(), threading.Event()

    def stall(request):
        arrived.set()
        release.wait(30)
        request.close_connection = True
        return True

    uploads.misbehave["PATCH"] = stall

    def interrupt():
        arrived.wait(10)
        time.sleep(0.3)
        _thread.interrupt_main(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            push(target, store, patience=Patience())
    finally:
        release.set()
        thread.join()
    assert time.monotonic() - started < 5
    assert uploads.manifests == {}


@pytest.mark.parametrize("phase", ["packing", "uploading"])
def test_progress_that_raises_ends_it(store, patience, tagged, target, uploads, phase):
    derived(store, tagged, target)

    def progress(event):
        if event.phase == phase:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        push(target, store, patience=patience, progress=progress)
    assert uploads.manifests == {}


def test_no_room_for_a_packed_layer(store, patience, tagged, target, uploads, monkeypatch):
    derived(store, tagged, target)
    write = os.write

    def full(fd, data):
        if bytes(data[:2]) == b"\x1f\x8b":
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreFull):
        push(target, store, patience=patience)
    assert uploads.log == []
    assert issubclass(StoreFull, CellblockError)
