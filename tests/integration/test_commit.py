"""Containers that have ended become images: what is seen in them is what was written."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cellblock_engine import (
    Bind,
    CommitRequest,
    Conflict,
    Container,
    ContainerNotFound,
    Digest,
    Engine,
    ImageNotFound,
    InvalidInput,
    InvalidLayer,
    Removal,
    RunRequest,
    StartFailed,
    StoreFull,
    Tmpfs,
    Unsupported,
    written,
)
from cellblock_engine.layout import Layout
from cellblock_engine.store.pack import entries
from support import capabilities
from support.commits import archived, ended, names_in
from support.layouts import LayoutWriter
from support.registry import Registry

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("root")

CHANGES = r"""
import os, socket, struct
os.mkdir("/work"); open("/work/new", "w").write("new\n"); os.link("/work/new", "/work/twin")
os.chown("/work/twin", 1000, 1001)
os.symlink("../etc/passwd", "/work/link"); os.mkfifo("/work/pipe")
socket.socket(socket.AF_UNIX).bind("/work/socket")
open(b"/work/\xff\n" + b"n" * 200, "w").write("odd name")
os.chmod("/work/new", 0o4750)
os.utime("/work/link", ns=(5, 1_700_000_000_123_456_789), follow_symlinks=False)
os.setxattr("/work/new", "user.note", b"\0\n=")
os.setxattr("/work/new", "security.capability", struct.pack("<5I", 0x02000000, 1 << 10, 0, 0, 0))
os.unlink("/etc/issue")
open("/etc/added", "w").write("kept")
for name in os.listdir("/etc/default"): os.unlink("/etc/default/" + name)
os.rmdir("/etc/default"); os.mkdir("/etc/default"); open("/etc/default/only", "w").close()
os.unlink("/etc/debian_version"); os.mkdir("/etc/debian_version")
os.chmod("/srv", 0o700)
"""
LISTING = r"""
import os, json, stat, hashlib
own = [b"/etc/hosts", b"/etc/hostname", b"/etc/resolv.conf", b"/work/socket"]
found = {}
for top in ("/work", "/etc", "/srv", "/usr/local", "/opt"):
    for directory, directories, files in os.walk(os.fsencode(top)):
        for name in [b"."] + files + directories:
            path = os.path.normpath(os.path.join(directory, name))
            if path in own:
                continue
            s = os.lstat(path)
            content = ""
            if stat.S_ISREG(s.st_mode):
                content = hashlib.sha256(open(path, "rb").read()).hexdigest()
            elif stat.S_ISLNK(s.st_mode):
                content = os.readlink(path).decode()
            xattrs = {}
            if not stat.S_ISLNK(s.st_mode):
                xattrs = {k: os.getxattr(path, k).hex() for k in sorted(os.listxattr(path))}
            links = 0 if stat.S_ISDIR(s.st_mode) else s.st_nlink
            time = s.st_mtime_ns if path != b"/etc" else 0  # where hosts is put at every start
            mode = [s.st_mode, s.st_uid, s.st_gid, time, links]
            found[path.hex()] = [mode, content, xattrs]
print(json.dumps(found, sort_keys=True))
"""


def listed(engine: Engine, image: str) -> str:
    result = engine.run(image, ["python3", "-c", LISTING])
    assert (result.exit_code, result.stderr) == (0, b"")
    return result.stdout.decode()


def document(engine: Engine, digest: Digest) -> dict[str, Any]:
    blob = Layout.default(engine.home).blobs / digest.hex
    loaded: dict[str, Any] = json.loads(blob.read_bytes())
    return loaded


def stored(engine: Engine) -> list[str]:
    """Return everything that the store has of images, and of unfinished work."""
    layout = Layout.default(engine.home)
    places = (layout.blobs, layout.layers, layout.chains, layout.references, layout.staging)
    return sorted(str(path) for place in places if place.exists() for path in place.iterdir())


@pytest.fixture
def engine(committing_engine: Engine) -> Engine:
    return committing_engine


def test_what_is_seen_in_the_image_is_what_was_seen_in_the_container(
    engine: Engine, base_image: str
):
    seen = ended(engine, base_image, CHANGES + LISTING)
    image = engine.commit("box", "mine/box:1")
    assert listed(engine, "mine/box:1") == seen
    assert seen != listed(engine, base_image)
    assert "security.capability" in seen
    base = engine.image(base_image)
    assert image.layers[:-1] == base.layers
    assert (replace(image.config, labels={}), image.platform) == (base.config, base.platform)
    assert [str(reference) for reference in image.references] == ["docker.io/mine/box:1"]
    assert image.size_bytes > base.size_bytes
    names = names_in(archived(engine, image.layers[-1]))
    assert {"etc/.wh.issue", "etc/default/.wh..wh..opq", "etc/default/only", "work/twin"} <= names
    assert not {"work/socket", "proc", "dev", "sys", "etc/hosts", "etc/resolv.conf"} & names


def test_its_documents(engine: Engine, base_image: str):
    ended(engine, base_image, "open('/new', 'w').write('new')", labels={"own": "label"})
    image = engine.commit("box", "mine/box", CommitRequest("says\nmuch", "Ada <ada@example.org>"))
    base = engine.image(base_image)
    config, below = document(engine, image.id), document(engine, base.id)
    (step,) = config["history"][len(below.get("history") or ()) :]
    assert step["created"] == config["created"]
    assert shlex.split(step["created_by"]) == ["python3", "-c", "open('/new', 'w').write('new')"]
    assert (step["author"], step["comment"]) == ("Ada <ada@example.org>", "says\nmuch")
    labels = config["config"].pop("Labels")
    assert "own" not in labels
    assert labels["org.opencontainers.image.base.digest"] == str(base.manifest)
    assert (config["author"], config["config"]) == ("Ada <ada@example.org>", below["config"])
    manifest = document(engine, image.manifest)
    archive = archived(engine, image.layers[-1])
    assert manifest["layers"][:-1] == document(engine, base.manifest)["layers"]
    assert manifest["layers"][-1] == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": str(image.layers[-1]),
        "size": len(archive),
    }
    assert manifest["config"]["digest"] == str(image.id)


def test_containers_of_commits_stack(engine: Engine, base_image: str):
    ended(engine, base_image, "open('/one', 'w'); open('/both', 'w').write('1')")
    first = engine.commit("box", "mine/box:1")
    ended(engine, "mine/box:1", "open('/two', 'w'); open('/both', 'w').write('2')", name="second")
    second = engine.commit("second", "mine/box:2")
    assert second.layers[:-1] == first.layers
    assert names_in(archived(engine, second.layers[-1])) - {"etc"} == {".", "two", "both"}
    assert engine.run("mine/box:2", ["cat", "/one", "/two", "/both"]).stdout == b"2"


def test_the_container_goes_on_and_the_image_does_not(engine: Engine, base_image: str):
    code = "import os; n = len(os.listdir('/opt')); open(f'/opt/{n}', 'w').write(str(n))"
    ended(engine, base_image, code)
    first = engine.commit("box", "mine/box:1")
    archive = archived(engine, first.layers[-1])
    engine.start("box").wait(timeout_s=30)
    assert engine.run("mine/box:1", ["ls", "/opt"]).stdout == b"0\n"
    assert archived(engine, first.layers[-1]) == archive
    second = engine.commit("box", "mine/box:2")
    assert engine.run("mine/box:2", ["ls", "/opt"]).stdout == b"0\n1\n"
    assert second.layers[:-1] == first.layers


def test_the_same_files_are_the_same_layer(engine: Engine, base_image: str):
    ended(engine, base_image, "open('/new', 'w')")
    first = engine.commit("box", "mine/box:1")
    kept = [name for name in stored(engine) if "/layers/" in name]
    second = engine.commit("box", "mine/box:2")
    assert second.layers == first.layers
    assert [name for name in stored(engine) if "/layers/" in name] == kept


def test_a_container_that_was_never_started(engine: Engine, base_image: str):
    engine.create(RunRequest(image=base_image, argv=("true",), name="box"))
    image = engine.commit("box", "mine/box")
    assert (image.added, image.added_bytes, image.paused_s) == (None, 0, 0)
    assert image.layers == engine.image(base_image).layers
    assert document(engine, image.id)["history"][-1]["empty_layer"] is True
    assert engine.run("mine/box", ["true"]).exit_code == 0


@pytest.mark.parametrize("code", ["", "open('/new', 'w'); import os; os.unlink('/new')"])
def test_a_container_that_has_changed_nothing(engine: Engine, base_image: str, code: str):
    ended(engine, base_image, code)
    assert engine.commit("box", "mine/box").added is None
    ended(engine, base_image, "import os; os.chmod('/etc', 0o700)", name="other")
    image = engine.commit("other", "mine/other")
    assert names_in(archived(engine, image.layers[-1])) == {".", "etc"}


def test_without_a_reference_it_is_held_by_its_digest(engine: Engine, base_image: str):
    ended(engine, base_image, "open('/new', 'w').write('new')")
    image = engine.commit("box")
    (reference,) = image.references
    assert (reference.tag, reference.digest) == (None, image.manifest)
    assert engine.run(str(image.id), ["cat", "/new"]).stdout == b"new"
    removed = engine.remove_image(str(image.id))
    assert image.layers[-1] in removed.deleted


def test_a_reference_moves(engine: Engine, base_image: str):
    ended(engine, base_image, "open('/new', 'w')")
    first = engine.commit("box", "mine/box")
    ended(engine, base_image, "open('/newer', 'w')", name="second")
    second = engine.commit("second", "mine/box")
    assert engine.image("mine/box").id == second.id != first.id


def test_it_lives_on_without_its_base(engine: Engine, base_image: str, tmp_path: Path):
    """In a store of its own: the base image is what goes."""
    with Engine.open(tmp_path / "store") as own:
        own.pull(base_image)
        ended(own, base_image, "open('/new', 'w').write('new')")
        image = own.commit("box", "mine/box")
        own.remove_image(base_image, force=True)
        own.container("box").remove()
        assert [known.id for known in own.images()] == [image.id]
        assert own.run("mine/box", ["cat", "/new"]).stdout == b"new"
        assert all(own.home.joinpath("layers", layer.hex).is_dir() for layer in image.layers)
        own.pull(base_image)  # whose layer is there
        own.remove_image("mine/box")
        assert own.run(base_image, ["ls", "/new"]).exit_code == 2


def test_an_image_from_a_registry_shares_its_layer(
    engine: Engine, base_image: str, base_layout: Path, registry: Registry, tmp_path: Path
):
    """No blob of a committed layer is in the store, and none is needed."""
    ended(engine, base_image, "open('/new', 'w').write('new')")
    image = engine.commit("box", "mine/box")
    archive = tmp_path / "layer.tar"
    archive.write_bytes(archived(engine, image.layers[-1]))
    writer = LayoutWriter(tmp_path / "layout")
    writer.image([*writer.adopt(base_layout), writer.layer(archive)])
    reference = registry.push(writer.directory, "sharing")
    phases: dict[Digest | None, list[str]] = {}
    pulled = engine.pull(
        reference, progress=lambda event: phases.setdefault(event.layer, []).append(event.phase)
    )
    assert pulled.layers == image.layers
    assert {tuple(seen) for layer, seen in phases.items() if layer} == {("exists",)}
    engine.container("box").remove()
    engine.remove_image("mine/box")
    assert engine.run(reference, ["cat", "/new"]).stdout == b"new"


def test_a_container_keeps_what_it_was_made_from(engine: Engine, base_image: str, tmp_path: Path):
    """Its image may have lost its name, as when the tag has moved."""
    with Engine.open(tmp_path / "store") as own:
        own.pull(base_image)
        ended(own, base_image, "open('/new', 'w').write('new')")
        own.remove_image(base_image, force=True)
        assert own.images() == ()
        with pytest.raises(InvalidInput, match="has lost its name: give one to the new image"):
            own.commit("box")
        image = own.commit("box", "mine/box")
        blobs = Layout.default(own.home).blobs
        for layer in document(own, image.manifest)["layers"][:-1]:
            assert (blobs / Digest.parse(layer["digest"]).hex).is_file()
        own.container("box").remove()
        own.remove_image("mine/box")
        assert [path for path in blobs.iterdir() if path.is_file()] == []


def test_a_removed_image_is_missed_in_one_line(engine: Engine, base_image: str, tmp_path: Path):
    """Of a container of an older version, which does not name its manifest."""
    with Engine.open(tmp_path / "store") as own:
        own.pull(base_image)
        ended(own, base_image, "open('/new', 'w').write('new')")
        path = own.home / "containers" / own.container("box").id / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "manifest": None}))
        own.remove_image(base_image, force=True)
        with pytest.raises(ImageNotFound, match="not in the store any more: pull it again"):
            own.commit("box", "mine/box")
        own.pull(base_image)
        own.commit("box", "mine/box")
        own.container("box").remove()


WRITING = """
import os, mmap, sys, time
os.mkdir("/work"); file = open("/work/mapped", "w+b"); file.truncate(4096)
seen = mmap.mmap(file.fileno(), 4096); seen[0] = 1
print("ready", flush=True)
number = 0
while True:
    number += 1
    text = str(number)
    os.mkdir(f"/work/{number}")
    for name in "ab":
        open(f"/work/{name}", "w").write(text)
        open(f"/work/{number}/{name}", "w").write(text)
    seen[8:8 + len(text)] = text.encode()
"""
READING = """
import os
numbers = sorted(int(name) for name in os.listdir("/work") if name.isdigit())
for number in numbers[:-1]:
    assert [open(f"/work/{number}/{name}").read() for name in "ab"] == [str(number)] * 2, number
assert numbers == list(range(1, len(numbers) + 1))
last, read = numbers[-1], lambda name: open(f"/work/{name}").read()
mapped = open("/work/mapped", "rb").read()[8:].rstrip(bytes(1)).decode()
assert int(mapped) in (last - 1, last), (mapped, last)
for name in "ab":
    assert read(name) in ("", str(last), str(last - 1)), (name, read(name), last)
print(last)
"""
WAITING = "print('ready', flush=True); input()"


def started(engine: Engine, image: str, code: str, **asked: Any) -> Container:
    """Start Python code in a container, and return it when it says that it is ready."""
    argv = ("python3", "-c", code)
    container = engine.start(RunRequest(**{"image": image, "argv": argv, "name": "box"} | asked))
    deadline = time.monotonic() + 30
    while not any(b"ready" in record.data for record in container.logs()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return container


def test_a_running_container_as_it_is_at_one_moment(engine: Engine, base_image: str):
    container = started(engine, base_image, WRITING)
    numbers = []
    try:
        for tag in range(3):
            image = engine.commit("box", f"mine/box:{tag}")
            assert 0 < image.paused_s < 5
            seen = engine.run(f"mine/box:{tag}", ["python3", "-c", READING])
            assert (seen.exit_code, seen.stderr) == (0, b"")
            numbers.append(int(seen.stdout))
            assert container.inspect().status == "running"
    finally:
        container.stop(0)
    assert numbers == sorted(set(numbers))


def test_the_same_running_and_ended(engine: Engine, base_image: str):
    container = started(engine, base_image, CHANGES + WAITING, interactive=True)
    running = engine.commit("box", "mine/box:1")
    container.stop(0)
    again = engine.commit("box", "mine/box:2", CommitRequest(squash=True))
    assert again.layers == running.layers


def test_a_commit_that_is_ended_lets_it_go_on(engine: Engine, base_image: str):
    container = started(engine, base_image, WAITING, interactive=True)
    before = stored(engine)
    with pytest.raises(KeyboardInterrupt), container.standing_still():
        raise KeyboardInterrupt
    assert container.exec(["true"], timeout=10).exit_code == 0
    with container.standing_still():
        killer = threading.Thread(target=container.stop, args=(0,))
        killer.start()
        killer.join(0.5)
        assert killer.is_alive()
    killer.join(10)
    assert container.inspect().status == "exited"
    assert stored(engine) == before


def test_standing_still_ends_by_itself(engine: Engine, base_image: str):
    container = started(engine, base_image, WAITING, interactive=True)
    with pytest.raises(Conflict, match="did not stand still until"), container.standing_still():
        container.kill(0)  # is answered when it goes on
    assert container.exec(["true"], timeout=10).exit_code == 0
    container.stop(0)


def test_a_monitor_that_is_killed_meanwhile_leaves_nothing(engine: Engine, base_image: str):
    container = started(engine, base_image, WAITING, interactive=True)
    pid = container.inspect().pid
    with pytest.raises(Conflict, match="did not stand still"), container.standing_still():
        os.kill(monitor_of(container), signal.SIGKILL)
    container.remove(force=True)
    assert not Path(f"/proc/{pid}").exists()


def monitor_of(container: Container) -> int:
    own = b"cellblock-monitor " + container.id[:12].encode()
    (pid,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.read_bytes().startswith(own)
    ]
    return pid


def test_a_limit_on_storage_is_refused(engine: Engine, base_image: str):
    capabilities.need_attributes_in_memory()
    own = {"removal": Removal.AT_END, "storage_bytes": 1 << 20}
    container = started(engine, base_image, WAITING, interactive=True, **own)
    with pytest.raises(Unsupported, match="what it writes is in memory"):
        engine.commit("box", "mine/box")
    container.stop(0)


def test_the_host_image_is_refused(engine: Engine):
    ended(engine, "host", "open('/new', 'w')")
    with pytest.raises(
        Unsupported, match=r"this machine's own; use a container of an image, or make one"
    ):
        engine.commit("box", "mine/box")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("host", "this machine's own image"),
        ("box@sha256:" + "0" * 64, "follows from the content"),
        ("sha256:" + "0" * 64, "how ids are written"),
        ("0" * 64, "an image id"),
        ("Box", "lower-case"),
    ],
)
def test_references_that_cannot_be_meant(
    engine: Engine, base_image: str, reference: str, message: str
):
    ended(engine, base_image, "open('/new', 'w')")
    before = stored(engine)
    with pytest.raises(InvalidInput, match=message):
        engine.commit("box", reference)
    assert stored(engine) == before


def test_places_made_for_mounts_stay_out(engine: Engine, base_image: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("of the host")
    code = "open('/in/memory/x', 'w'); open('/shared/y', 'w'); open('/new', 'w')"
    binds = (
        Bind(tmp_path / "folder", "/shared", writable=True),
        Bind(tmp_path / "file", "/settings", writable=False),
    )
    ended(engine, base_image, code, binds=binds, tmpfs=(Tmpfs("/in/memory", 1 << 20, 0o777),))
    image = engine.commit("box", "mine/box")
    assert names_in(archived(engine, image.layers[-1])) - {"etc"} == {".", "in", "new"}
    assert engine.run("mine/box", ["ls", "/shared", "/settings"]).exit_code == 2


@pytest.mark.attack(70)
def test_a_failure_in_the_middle_leaves_nothing(
    engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch
):
    ended(engine, base_image, "open('/new', 'wb').write(bytes(3_000_000))")
    before = stored(engine)

    def failing(*asked: Any, **further: Any) -> Iterator[Any]:
        described = entries(*asked, **further)
        for _ in range(3):
            yield next(described)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(written, "entries", failing)
        with pytest.raises(KeyboardInterrupt):
            engine.commit("box", "mine/box")
    assert stored(engine) == before
    engine.commit("box", "mine/box")


def test_a_container_that_is_removed_meanwhile_is_no_image(
    engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch
):
    ended(engine, base_image, "open('/new', 'w')")
    references = [name for name in stored(engine) if "/references/" in name]

    def removed(*asked: Any, **further: Any) -> Iterator[Any]:
        engine.container("box").remove()
        yield from entries(*asked, **further)

    monkeypatch.setattr(written, "entries", removed)
    with pytest.raises(ContainerNotFound, match="was removed meanwhile"):
        engine.commit("box", "mine/box")
    assert [name for name in stored(engine) if "/references/" in name] == references
    engine._store.images.collect()


def test_a_container_does_not_start_meanwhile(
    engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch
):
    ended(engine, base_image, "open('/new', 'w')")

    def starting(*asked: Any, **further: Any) -> Iterator[Any]:
        with pytest.raises(StartFailed, match="being started or committed"):
            engine.start("box")
        assert engine.container("box").inspect().status == "exited"
        yield from entries(*asked, **further)

    monkeypatch.setattr(written, "entries", starting)
    assert engine.commit("box", "mine/box").references


@pytest.mark.attack(40)
def test_a_container_cannot_forge_a_removal(engine: Engine, base_image: str):
    ended(engine, base_image, "open('/etc/.wh.passwd', 'w')")
    before = stored(engine)
    with pytest.raises(InvalidLayer, match=r"etc/.wh.passwd.* mean removals there"):
        engine.commit("box", "mine/box")
    assert stored(engine) == before


def test_a_file_of_holes_does_not_fill_the_disk(engine: Engine, base_image: str):
    ended(engine, base_image, "open('/holes', 'w').truncate(8 * 10**12)")
    before = stored(engine)
    begun = time.monotonic()
    with pytest.raises(StoreFull, match=r"no space for 7\.\d+ TiB"):
        engine.commit("box", "mine/box")
    assert time.monotonic() - begun < 5
    assert stored(engine) == before


@pytest.mark.attack(40)
def test_links_to_the_host_stay_links(engine: Engine, base_image: str, tmp_path: Path):
    (tmp_path / "secret").write_text("secret of the host")
    code = f"import os; os.symlink({str(tmp_path)!r}, '/dir'); os.symlink('/dir/secret', '/key')"
    ended(engine, base_image, code)
    image = engine.commit("box", "mine/box")
    assert b"secret of the host" not in archived(engine, image.layers[-1])


def test_the_verb(engine: Engine, base_image: str, cellblock: Cellblock):
    ended(engine, base_image, "open('/new', 'w').write('new')")
    done = cellblock("commit", "-m", "why", "-a", "Ada", "box", "mine/box:2")
    assert (done.returncode, done.stderr) == (0, "")
    image = engine.image("mine/box:2")
    assert done.stdout == f"{image.id}\n"
    assert document(engine, image.id)["history"][-1]["comment"] == "why"
    assert cellblock("run", "--rm", "mine/box:2", "cat", "/new").stdout == "new"
    bare = cellblock("commit", "box")
    assert engine.image(bare.stdout.strip()).references[0].digest is not None
    assert bare.stderr == "cellblock: nothing has changed: no layer was added\n"
    assert "also of one that runs" in cellblock("commit", "--help").stdout
    running = engine.start(RunRequest(image="mine/box:2", argv=("sleep", "60"), name="running"))
    note = cellblock("commit", "running").stderr.splitlines()[-1]
    assert re.fullmatch(r"cellblock: the container stood still for 0\.\d+ s", note)
    running.remove(force=True)
    refused = cellblock("commit", "nobox")
    assert (refused.returncode, refused.stdout) == (125, "")
    assert refused.stderr.count("\n") == 1
