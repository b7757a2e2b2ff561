"""Docker as a peer: it runs what is saved and pushed here, and what it saves and pushes runs here.

skopeo, umoci and docker-registry are in test_push.py and test_archives.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cellblock_engine import CommitRequest, Digest, Engine, Image, RunRequest
from support.docker import Docker
from support.layouts import LayoutWriter, small_tar
from support.registry import Registry
from support.treelist import differences, stacked

pytestmark = pytest.mark.usefixtures("root")

FIRST = r"""
import os
os.makedirs("/srv/opaque/old"); open("/srv/opaque/old/hidden", "w").write("hidden\n")
os.makedirs("/srv/files/folder"); open("/srv/files/folder/inner", "w").write("inner\n")
os.chdir("/srv/files")
open("one", "w").write("one\n"); os.link("one", "same"); os.symlink("one", "link")
open("private", "w").write("private\n"); os.chmod("private", 0o600); os.chown("private", 1000, 1001)
os.mkdir("sticky"); os.chmod("sticky", 0o1777); open("setuid", "w"); os.chmod("setuid", 0o4755)
open("gone", "w").write("gone\n"); os.mkfifo("pipe"); open("na\u00efve\n", "w").write("odd name\n")
os.setxattr("one", "user.colour", b"blue\0green"); os.utime("one", (1_000_000_000, 1_000_000_000))
"""
SECOND = r"""
import os, shutil
os.chdir("/srv/files")
os.unlink("gone"); shutil.rmtree("folder"); open("folder", "w").write("a file now\n")
os.unlink("link"); os.mkdir("link"); open("same", "a").write("two\n")
shutil.rmtree("/srv/opaque"); os.makedirs("/srv/opaque/kept")
open("/srv/opaque/kept/only", "w").write("all that is left\n")
shutil.rmtree("/usr/share/doc/mawk", ignore_errors=True); os.unlink("/etc/issue")
"""
SHOW = ("sh", "-c", "cat /srv/files/folder /srv/files/same; ls /srv/opaque")
SHOWN = "a file now\none\ntwo\nkept\n"


@pytest.fixture(scope="module")
def peer(docker: Docker, base_image: str) -> Docker:
    """A Docker that has the base image."""
    docker("pull", base_image)
    return docker


@pytest.fixture(scope="module")
def stack(base_home: Path, base_image: str, registry: Registry) -> Iterator[Image]:
    """An image of two commits above the base."""
    name = f"{registry.host}/peers/stack:1"
    with Engine.open(base_home) as engine:
        for number, (base, script) in enumerate([(base_image, FIRST), (name, SECOND)], 1):
            argv = ("python3", "-c", script)
            with engine.spawn(RunRequest(image=base, argv=argv, name="box")) as attached:
                _, stderr, end = attached.communicate(None, most_bytes=1 << 20)
            assert (end.exit_code, stderr) == (0, b"")
            request = CommitRequest(comment=f"step {number}", created_by=f"cell {number}")
            image = engine.commit("box", name, request)
            engine.container("box").remove()
        yield image
        engine.remove_image(name, force=True)


@pytest.fixture
def beside(base_engine: Engine, base_image: str) -> Iterator[Engine]:
    """The engine with the base image; names that the test made go after it."""
    before = {str(name) for image in base_engine.images() for name in image.references}
    yield base_engine
    for image in base_engine.images():
        for name in {str(name) for name in image.references} - before:
            base_engine.remove_image(name, force=True)


def inspected(docker: Docker, image: str) -> tuple[str, list[str]]:
    """Return an image's id and diffIDs, as Docker has them."""
    found = json.loads(docker("image", "inspect", image))[0]
    return found["Id"], found["RootFS"]["Layers"]


def expected(image: Image) -> tuple[str, list[str]]:
    return str(image.id), list(map(str, image.layers))


def docker_history(docker: Docker, image: str) -> list[dict[str, Any]]:
    """Return the steps of an image as Docker shows them, the newest first."""
    shown = docker("history", "--no-trunc", "--format", "{{json .}}", image)
    return list(map(json.loads, shown.splitlines()))


def assert_same_tree(engine: Engine, docker: Docker, image: Image, tmp_path: Path) -> None:
    """Assert that both show the same files: names, modes, owners, times, attributes, links."""
    ours = stacked(engine._store.layers.chain(image.layers), tmp_path / "merged")
    theirs = stacked(docker.layers(str(image.id)), tmp_path / "merged", marks="")
    # Docker's root has the time at which its directory was made.
    theirs[b"."] = replace(theirs[b"."], mtime_ns=ours[b"."].mtime_ns)
    assert len(ours) > 5000
    assert differences(ours, theirs) == []


def piped(one: list[str], other: list[str], home: Path) -> tuple[str, str]:
    """Run ``one | other`` and return what the latter printed."""
    environment = {**os.environ, "CELLBLOCK_HOME": str(home)}
    with subprocess.Popen(one, stdout=subprocess.PIPE, env=environment) as source:
        done = subprocess.run(
            other, stdin=source.stdout, capture_output=True, check=True, text=True, env=environment
        )
    assert source.returncode == 0
    return done.stdout, done.stderr


CELLBLOCK = [sys.executable, "-m", "cellblock"]


def test_docker_loads_what_is_saved(
    base_engine: Engine, peer: Docker, stack: Image, tmp_path: Path
):
    """Its tree too: removals, replacements, opaque directories, links, owners, attributes."""
    name, file = str(stack.references[0]), tmp_path / "out.tar"
    base_engine.save([name], file)
    assert name in peer("load", "--input", str(file))
    assert inspected(peer, name) == expected(stack)
    assert peer("run", "--rm", "--network", "none", name, *SHOW) == SHOWN
    steps = docker_history(peer, name)
    assert [(step["CreatedBy"], step["Comment"]) for step in steps[:2]] == [
        ("cell 2", "step 2"),
        ("cell 1", "step 1"),
    ]
    assert len(steps) == len(base_engine.history(name)) == 3
    assert_same_tree(base_engine, peer, stack, tmp_path)


def test_docker_pulls_what_is_pushed(beside: Engine, peer: Docker, stack: Image):
    name = str(stack.references[0])
    pushed = beside.push(name)
    peer("rmi", "--force", name)
    peer("pull", "--quiet", name)
    assert inspected(peer, name) == expected(stack)
    digests = json.loads(peer("image", "inspect", "--format", "{{json .RepoDigests}}", name))
    assert digests == [f"{name.removesuffix(':1')}@{pushed.manifest}"]
    assert peer("run", "--rm", "--network", "none", name, *SHOW) == SHOWN


def test_what_docker_pushes_keeps_its_bytes(
    beside: Engine, peer: Docker, stack: Image, registry: Registry
):
    """Docker's own manifest, pulled and pushed under another name, is that manifest again."""
    theirs, ours = f"{registry.host}/peers/docker:1", f"{registry.host}/peers/again:1"
    piped([*CELLBLOCK, "save", str(stack.id)], peer.argv("load"), beside.home)
    peer("tag", str(stack.id), theirs)
    peer("push", "--quiet", theirs)
    pulled = beside.pull(theirs)
    assert expected(pulled) == expected(stack)
    beside.tag(theirs, ours)
    assert beside.push(ours).manifest == pulled.manifest
    argv = ["skopeo", "inspect", "--raw", "--tls-verify=false", "--no-creds", f"docker://{ours}"]
    raw = subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout
    assert Digest.of(raw) == pulled.manifest
    assert json.loads(raw)["mediaType"].startswith("application/vnd.docker.")


def test_what_docker_commits_and_saves_is_loaded(
    beside: Engine, peer: Docker, base_image: str, tmp_path: Path
):
    for base, script in ((base_image, FIRST), ("mine/docker:1", SECOND)):
        peer("run", "--name", "box", "--network", "none", base, "python3", "-c", script)
        changes = ["--change", "ENV COLOUR=blue", "--change", "WORKDIR /srv/files"]
        peer("commit", "--message", "theirs", *changes, "box", "mine/docker:1")
        peer("rm", "box")
    stdout, stderr = piped(peer.argv("save", "mine/docker:1"), [*CELLBLOCK, "load"], beside.home)
    assert (stdout, stderr) == ("Loaded image: mine/docker:1\n", "")
    image = beside.image("mine/docker:1")
    assert expected(image) == inspected(peer, "mine/docker:1")
    assert beside.run("mine/docker:1", SHOW).check().stdout.decode() == SHOWN
    assert beside.run("mine/docker:1", ["sh", "-c", "pwd; echo $COLOUR"]).stdout == (
        b"/srv/files\nblue\n"
    )
    assert [step.comment for step in beside.history("mine/docker:1")][:2] == ["theirs", "theirs"]
    assert_same_tree(beside, peer, image, tmp_path)


def test_several_images_that_share_layers(
    engine: Engine, docker: Docker, registry: Registry, tmp_path: Path
):
    """Docker saves a layer that comes again on another place as a link to the first."""
    writer = LayoutWriter(tmp_path / "layout")
    one, other = (
        writer.layer(small_tar(tmp_path / f"{name}.tar", {name: name.encode()}))
        for name in ("one", "other")
    )
    writer.image([one, other, one], tag="twice")
    writer.image([other], tag="once")
    names = [
        registry.push(writer.directory, "peers/shared", tag, layout_tag=tag)
        for tag in ("twice", "once")
    ]
    for name in names:
        docker("pull", "--quiet", name)
    theirs = tmp_path / "docker.tar"
    docker("save", "--output", str(theirs), *names)
    with tarfile.open(theirs) as archive:
        assert any(member.issym() for member in archive)
    engine.load(theirs)
    before = {name: inspected(docker, name) for name in names}
    assert {name: expected(engine.image(name)) for name in names} == before
    ours = tmp_path / "ours.tar"
    engine.save(names, ours)
    docker("rmi", *names)
    docker("load", "--input", str(ours))
    assert {name: inspected(docker, name) for name in names} == before
