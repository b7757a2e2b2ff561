"""Images that were pulled or committed go to a real registry, and other tools read them there."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cellblock_engine import (
    AccessDenied,
    Conflict,
    Digest,
    Engine,
    Image,
    ImageNotFound,
    InvalidInput,
    InvalidLayer,
    RunRequest,
    TransferEvent,
    Unsupported,
)
from cellblock_engine.layout import Layout
from support import capabilities
from support.layouts import LayoutWriter, small_tar
from support.registry import Registry, serving
from support.umoci import assert_same_tree

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("root")

CHANGES = r"""
import os
os.mkdir("/work"); open("/work/new", "w").write("new\n" * 100_000)
os.link("/work/new", "/work/twin")
os.chown("/work/twin", 1000, 1001); os.chmod("/work/new", 0o4750)
os.symlink("../etc/passwd", "/work/link"); os.mkfifo("/work/pipe")
os.setxattr("/work/new", "user.note", b"\0\n=")
os.unlink("/etc/issue"); os.unlink("/etc/debian_version"); os.mkdir("/etc/debian_version")
open("/work/noise", "wb").write(os.urandom(3_000_000))
"""


@pytest.fixture
def engine(base_engine: Engine, base_image: str) -> Iterator[Engine]:
    """The engine with the base image, which keeps its name; other names go after the test."""
    yield base_engine
    for image in base_engine.images():
        for reference in image.references:
            if str(reference) != base_image:
                base_engine.remove_image(str(reference), force=True)


@pytest.fixture
def to(registry: Registry, request: pytest.FixtureRequest) -> str:
    """A name in the registry that no other test uses."""
    number = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return f"{registry.host}/pushed/{number}:1"


@pytest.fixture
def committed(engine: Engine, base_image: str, to: str) -> Image:
    argv = ("python3", "-c", CHANGES)
    with engine.spawn(RunRequest(image=base_image, argv=argv, name="box")) as attached:
        _, stderr, end = attached.communicate(None, most_bytes=1 << 20)
    assert (end.exit_code, stderr) == (0, b"")
    return engine.commit("box", to)


def skopeo(*words: str) -> bytes:
    argv = ["skopeo", "--insecure-policy", *words]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw_manifest(reference: str) -> bytes:
    return skopeo("inspect", "--raw", "--tls-verify=false", "--no-creds", f"docker://{reference}")


def blobs(engine: Engine) -> set[str]:
    return {path.name for path in Layout.default(engine.home).blobs.iterdir()}


class Phases:
    """What was told of each layer."""

    def __init__(self) -> None:
        self.events: list[TransferEvent] = []

    def __call__(self, event: TransferEvent) -> None:
        self.events.append(event)

    def last(self) -> list[str]:
        """Return how each layer ended."""
        ends = {event.layer: event.phase for event in self.events}
        ends.pop(None, None)
        return list(ends.values())


def test_a_pulled_image_keeps_every_byte(
    engine: Engine, base_image: str, to: str, registry: Registry
):
    engine.tag(base_image, to)
    phases = Phases()
    image = engine.push(to, progress=phases)
    assert image.manifest == engine.image(base_image).manifest
    assert raw_manifest(to) == raw_manifest(base_image)
    assert phases.last() == ["mounted"]
    assert (phases.events[0].phase, phases.events[-1].phase) == ("resolving", "done")


def test_a_pulled_image_goes_to_another_registry(
    engine: Engine, base_image: str, tmp_path: Path, registry: Registry
):
    with serving(tmp_path / "other") as other:
        to = f"{other.host}/its/base"
        engine.tag(base_image, to)
        phases = Phases()
        image = engine.push(to, progress=phases)
        assert phases.last() == ["done"]
        assert raw_manifest(to) == raw_manifest(base_image)
        for layer in json.loads(raw_manifest(to))["layers"]:
            assert hashlib.sha256(other.blob(layer["digest"]).read_bytes()).hexdigest() == (
                layer["digest"].removeprefix("sha256:")
            )
        again = Phases()
        assert engine.push(to, progress=again) == image
        assert again.last() == ["exists"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_commit_comes_back_the_same(
    engine: Engine, committed: Image, to: str, base_image: str, compression: Any
):
    phases = Phases()
    pushed = engine.push(to, progress=phases, compression=compression)
    assert set(phases.last()) == {"mounted", "done"}
    assert (pushed.id, pushed.layers) == (committed.id, committed.layers)
    assert engine.image(to).manifest == pushed.manifest
    assert Digest.of(raw_manifest(to)) == pushed.manifest
    types = [layer["mediaType"] for layer in json.loads(raw_manifest(to))["layers"]]
    suffix = "" if compression == "none" else f"+{compression}"
    assert types[-1] == f"application/vnd.oci.image.layer.v1.tar{suffix}"

    again, up_to_date = Phases(), Phases()
    assert engine.push(to, progress=again, compression=compression) == pushed
    assert again.last() == ["exists", "exists"]
    assert engine.pull(to, progress=up_to_date).manifest == pushed.manifest
    assert up_to_date.last() == ["exists", "exists"]

    engine.container("box").remove()
    engine.remove_image(to)
    assert committed.layers[-1].hex not in os.listdir(Layout.default(engine.home).layers)
    fetched = engine.pull(to)
    assert (fetched.id, fetched.layers, fetched.manifest) == (
        committed.id,
        committed.layers,
        pushed.manifest,
    )
    assert len(engine.run(to, ["cat", "/work/twin"]).stdout) == 400_000
    assert engine.run(to, ["stat", "-c", "%u %a", "/work/new"]).stdout == b"1000 4750\n"


def test_another_image_of_the_same_layers_packs_nothing_again(
    engine: Engine, committed: Image, to: str
):
    engine.tag(to, f"{to}-too")
    pushed = engine.push(to)
    before = blobs(engine)
    phases = Phases()
    assert engine.push(f"{to}-too", progress=phases).manifest == pushed.manifest
    assert phases.last() == ["exists", "exists"]
    assert not [event for event in phases.events if event.phase == "packing"]
    assert blobs(engine) == before


def test_the_same_layer_is_packed_to_the_same_bytes(engine: Engine, committed: Image, to: str):
    first = engine.push(to)
    engine.remove_image(to)
    engine.commit("box", to)
    engine.container("box").remove()
    second = engine.push(to)
    manifests = [json.loads((Layout.default(engine.home).blobs / second.manifest.hex).read_bytes())]
    manifests.append(json.loads(raw_manifest(to)))
    assert manifests[0] == manifests[1]
    assert first.layers == second.layers
    layer = manifests[0]["layers"][-1]
    packed = (
        Layout.default(engine.home).blobs / layer["digest"].removeprefix("sha256:")
    ).read_bytes()
    assert packed[4:8] == bytes(4)  # no time (RFC 1952)
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == second.layers[-1].hex


def test_skopeo_and_umoci_see_our_tree(engine: Engine, committed: Image, to: str, tmp_path: Path):
    engine.push(to)
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", "--no-creds", f"docker://{to}"))
    assert inspected["Digest"] == str(engine.image(to).manifest)
    layout = tmp_path / "copied"
    skopeo("copy", "--src-tls-verify=false", "--src-no-creds", f"docker://{to}", f"oci:{layout}:l")
    assert_same_tree(f"{layout}:l", engine._store.layers.chain(committed.layers), tmp_path)


@pytest.mark.attack(55)
def test_a_connection_that_is_cut(engine: Engine, registry: Registry, tmp_path: Path):
    """docker-registry 2.8 gives up an upload that is cut, for its state is behind its size."""
    writer = LayoutWriter(tmp_path / "layout")
    noise = small_tar(tmp_path / "t.tar", {"noise": os.urandom(8_000_000)})
    writer.image([writer.layer(noise, "none")])
    source = registry.push(writer.directory, "cut/source")
    engine.pull(source)
    with serving(tmp_path / "other") as other, cutting(other.host, after=5_000_000) as (host, sent):
        engine.tag(source, f"{host}/it:1")
        engine.push(f"{host}/it:1")
        assert raw_manifest(f"{other.host}/it:1") == raw_manifest(source)
    assert sent[0] >= 5_000_000
    assert sent[1] >= 8_000_000 - 5_000_000


@contextmanager
def cutting(target: str, after: int) -> Iterator[tuple[str, list[int]]]:
    """Pass connections on to a server; cut the first one that carries more bytes than ``after``.

    Gives the address, and how many bytes went there before and after the cut.
    """
    sent, ended = [0, 0], threading.Event()
    host, _, port = target.partition(":")

    def carry(source: socket.socket, sink: socket.socket, *, counted: bool) -> None:
        own = 0
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                own += len(data)
                if counted:
                    sent[bool(sent[0] >= after)] += len(data)
                    if own > after > sent[1] and sent[0] - len(data) < after:
                        break
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while not ended.is_set():
            try:
                client = listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            open_ones.extend((client, server))
            threading.Thread(target=carry, args=(client, server), kwargs={"counted": True}).start()
            threading.Thread(target=carry, args=(server, client), kwargs={"counted": False}).start()

    open_ones: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", sent
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in open_ones:
                each.close()


def test_a_registry_that_wants_a_password(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    capabilities.need_program("htpasswd")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    writer = LayoutWriter(tmp_path / "layout")
    writer.image([writer.layer(small_tar(tmp_path / "t.tar", {"f": b"1"}))])
    with serving(tmp_path / "private", "anna:secret") as private:
        source = private.push(writer.directory, "secret")
        engine.login(private.host, "anna", "secret")
        engine.pull(source)
        engine.tag(source, f"{private.host}/mine/copy")
        engine.push(f"{private.host}/mine/copy")
        engine.logout(private.host)
        with pytest.raises(AccessDenied, match=f"log in to {private.host} first"):
            engine.push(f"{private.host}/mine/copy")


def test_a_layer_that_changed_on_disk_is_not_sent(
    engine: Engine, committed: Image, to: str, registry: Registry
):
    layer = Layout.default(engine.home).layers / committed.layers[-1].hex / "fs"
    (layer / "work" / "twin").write_text("forged")
    for compression in ("gzip", "none"):
        with pytest.raises(InvalidLayer, match="cannot be packed as it was"):
            engine.push(to, compression=compression)  # type: ignore[arg-type]
    assert list(Layout.default(engine.home).staging.iterdir()) == []
    with pytest.raises(ImageNotFound):
        engine.pull(to)


def test_what_cannot_be_meant(engine: Engine, base_image: str, to: str):
    digest = f"{base_image}@{engine.image(base_image).manifest}"
    for name, message in ((digest, "has a digest"), ("host", "this machine's own image")):
        with pytest.raises(InvalidInput, match=message):
            engine.push(name)
        with pytest.raises(InvalidInput, match=message):
            engine.tag(base_image, name)
    with pytest.raises(InvalidInput, match="compression"):
        engine.push(base_image, compression="xz")  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="this machine's own image"):
        engine.tag("host", "mine")
    with pytest.raises(ImageNotFound, match="give the one that is to be pushed that name with tag"):
        engine.push(to)


def test_tags_are_more_names(engine: Engine, base_image: str):
    base = engine.image(base_image)
    image = engine.tag(base_image, "mine/copy")
    assert image.id == base.id
    assert {str(each) for each in image.references} == {base_image, "docker.io/mine/copy:latest"}
    engine.tag(base.id.short, "mine/other:2")
    assert engine.image("mine/other:2").id == base.id
    assert engine.remove_image("mine/other:2").deleted == ()
    with pytest.raises(Conflict, match="2 references"):
        engine.remove_image(base.id.short)
    engine.remove_image("mine/copy")


def test_an_image_whose_container_runs_is_not_removed(engine: Engine, base_image: str):
    engine.tag(base_image, "mine/copy")
    container = engine.start(RunRequest(image="mine/copy", argv=("sleep", "60"), name="box"))
    assert engine.remove_image("mine/copy").deleted == ()  # another name is left
    with pytest.raises(Conflict, match="used by a container that runs: stop that first"):
        engine.remove_image(base_image, force=True)
    container.stop(0)
    with pytest.raises(Conflict, match="or the image with --force"):
        engine.remove_image(base_image)


def test_the_verbs(cellblock: Cellblock, engine: Engine, base_image: str, to: str):
    done = cellblock("tag", base_image, to, home=engine.home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = cellblock("push", to, home=engine.home)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{to}: {engine.image(to).manifest}\n"
    assert "1 layer (nothing new)" in done.stderr
