"""diff and history of real containers and images, against what a container itself sees."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cellblock_engine import (
    Bind,
    Change,
    CommitRequest,
    ContainerNotFound,
    Engine,
    ImageNotFound,
    Removal,
    RunRequest,
    Tmpfs,
    Unsupported,
)
from support import capabilities
from support.registry import Registry

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("root")

CHANGES = """
echo new > /srv/new; mkdir -p /srv/deep/er; echo 12345 > /srv/deep/er/file; ln -s new /srv/link
mkfifo /srv/pipe; rm /etc/debian_version; rm -r /usr/share/common-licenses
echo more >> /etc/passwd; chmod 700 /opt; touch /etc/issue
rm -r /etc/default; mkdir /etc/default; echo only > /etc/default/only
"""
# Every path that does not belong to a mount, and what it is.
LISTING = r"find / -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune -o -printf '%p %y\n'"
_OWN = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}


def ended(engine: Engine, image: str, script: str, **asked) -> None:
    request = RunRequest(**{"image": image, "argv": ("sh", "-ec", script), "name": "box"} | asked)
    with engine.spawn(request) as attached:
        _, stderr, end = attached.communicate(None, most_bytes=1 << 16)
    assert (end.exit_code, stderr) == (0, b"")


def listed(engine: Engine, image: str) -> set[str]:
    result = engine.run(image, ["sh", "-c", LISTING])
    assert result.exit_code == 0, result.stderr
    return {line.rpartition(" ")[0] for line in result.stdout.decode().splitlines()} - _OWN


def by_path(changes: tuple[Change, ...]) -> dict[str, tuple[str, str, int]]:
    found = {row.path: (row.change, row.kind, row.size_bytes) for row in changes}
    assert len(found) == len(changes)
    return found


def test_a_container_is_compared_with_its_image(base_engine: Engine, base_image: str):
    ended(base_engine, base_image, CHANGES)
    found = by_path(base_engine.diff("box"))
    licenses = found.pop("/usr/share/common-licenses")
    assert licenses[:2] == ("D", "directory")
    assert licenses[2] > 10_000
    defaults = {path for path in found if path.startswith("/etc/default/")}
    assert {found[path][0] for path in defaults} == {"A", "D"}
    assert found["/etc/default/only"] == ("A", "file", 5)
    for path in defaults:
        del found[path]
    size = found.pop("/etc/passwd")
    assert size[:2] == ("C", "file")
    issue = found.pop("/etc/issue")
    assert issue[:2] == ("C", "file")  # its time
    version = found.pop("/etc/debian_version")
    assert version[:2] == ("D", "file")
    assert found == {
        "/etc": ("C", "directory", 0),
        "/etc/default": ("C", "directory", 0),
        "/opt": ("C", "directory", 0),
        "/srv": ("C", "directory", 0),
        "/srv/deep": ("A", "directory", 0),
        "/srv/deep/er": ("A", "directory", 0),
        "/srv/deep/er/file": ("A", "file", 6),
        "/srv/link": ("A", "link", 0),
        "/srv/new": ("A", "file", 4),
        "/srv/pipe": ("A", "fifo", 0),
        "/usr": ("C", "directory", 0),
        "/usr/share": ("C", "directory", 0),
    }


def test_images_are_compared_as_containers_see_them(base_engine: Engine, base_image: str):
    ended(base_engine, base_image, CHANGES)
    base_engine.commit("box", "mine/box")
    before, after = listed(base_engine, base_image), listed(base_engine, "mine/box")
    found = base_engine.diff_images(base_image, "mine/box")
    assert found == base_engine.diff("box")
    assert {row.path for row in found if row.change == "A"} == after - before
    gone = {row.path for row in found if row.change == "D"}
    assert gone <= before - after
    below = {path for path in before - after if any(path.startswith(f"{top}/") for top in gone)}
    assert gone | below == before - after
    back = base_engine.diff_images("mine/box", base_image)
    assert {row.path for row in back if row.change == "A"} == before - after
    assert base_engine.diff_images(base_image, base_image) == ()
    base_engine.remove_image("mine/box", force=True)


def test_umocis_layers_are_compared_as_containers_see_them(
    base_engine: Engine, base_image: str, registry: Registry, layered_layout: Path
):
    layered = registry.push(layered_layout, "layered")
    base_engine.pull(layered)
    before, after = listed(base_engine, base_image), listed(base_engine, layered)
    found = base_engine.diff_images(base_image, layered)
    assert {row.path for row in found if row.change == "A"} == after - before
    assert "/srv/opaque/old" not in {row.path for row in found}
    base_engine.remove_image(layered)


def test_a_running_container_is_compared_too(base_engine: Engine, base_image: str):
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60"), name="box"))
    assert base_engine.diff("box") == ()
    container.exec(["sh", "-c", "echo 1 > /root/one"])
    assert by_path(base_engine.diff("box")) == {
        "/root": ("C", "directory", 0),
        "/root/one": ("A", "file", 2),
    }
    container.remove(force=True)


def test_a_container_is_compared_with_its_last_commit(base_engine: Engine, base_image: str):
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60"), name="box"))
    container.exec(["sh", "-c", "echo 1 > /root/one; echo 2 > /root/two"])
    assert base_engine.diff("box", since_commit=True) == base_engine.diff("box")
    made = base_engine.commit("box")
    assert base_engine.diff("box", since_commit=True) == ()
    container.exec(["sh", "-c", "echo 5 > /tmp/five"])  # which no commit would have
    assert {row.path for row in base_engine.diff("box", since_commit=True)} <= {"/tmp"}
    container.exec(["sh", "-c", "echo 33 > /root/one; rm /root/two; echo 4 > /srv/four"])
    found = by_path(base_engine.diff("box", since_commit=True))
    assert found == {
        "/root": ("C", "directory", 0),
        "/root/one": ("C", "file", 3),
        "/root/two": ("D", "file", 2),
        "/srv": ("C", "directory", 0),
        "/srv/four": ("A", "file", 2),
    }
    assert "/root/two" not in by_path(base_engine.diff("box"))
    # Where that image is gone, all that was written is lost.
    base_engine.remove_image(str(made.id), force=True)
    assert base_engine.diff("box", since_commit=True) == base_engine.diff("box")
    container.remove(force=True)


@pytest.mark.parametrize("image", ["host", None])
def test_what_was_made_for_mounts_is_not_the_containers(
    base_engine: Engine, base_image: str, tmp_path: Path, image: str | None
):
    (tmp_path / "folder").mkdir()
    binds = (Bind(tmp_path / "folder", "/shared", writable=True),)
    ended(
        base_engine,
        image or base_image,
        "touch /shared/outside /tmp/inside",
        binds=binds,
        tmpfs=(Tmpfs("/in/memory", 1 << 20, 0o777),),
    )
    assert {row.path for row in base_engine.diff("box")} == {"/in", "/tmp", "/tmp/inside"}


def test_the_hosts_trees_are_compared(base_engine: Engine):
    """The image host is several overlays."""
    ended(base_engine, "host", "echo x > /usr/share/mark; rm -r /usr/share/man || true")
    found = {row.path: row.change for row in base_engine.diff("box")}
    assert found["/usr/share/mark"] == "A"
    assert found["/usr/share"] == "C"


@pytest.mark.attack(40)
def test_hostile_names_are_words(base_engine: Engine, base_image: str, cellblock: Cellblock):
    code = "open(b'/srv/\\x1b[2J\\n\\xff', 'w').close()"
    request = RunRequest(image=base_image, argv=("python3", "-c", code), name="box")
    with base_engine.spawn(request) as attached:
        assert attached.wait(30).exit_code == 0
    (row,) = [row for row in base_engine.diff("box") if row.change == "A"]
    assert row.path == "/srv/\x1b[2J\n\\xff"


def test_what_cannot_be_compared_is_refused(base_engine: Engine, base_image: str):
    capabilities.need_attributes_in_memory()
    with pytest.raises(ContainerNotFound):
        base_engine.diff("box")
    with pytest.raises(ImageNotFound):
        base_engine.diff_images(base_image, "nosuch")
    request = RunRequest(
        image=base_image,
        argv=("sleep", "60"),
        name="box",
        storage_bytes=1 << 20,
        removal=Removal.AT_END,
    )
    container = base_engine.start(request)
    with pytest.raises(Unsupported, match="in its own memory"):
        base_engine.diff("box")
    container.remove(force=True)


def test_history_tells_each_step_beside_its_layer(base_engine: Engine, base_image: str):
    ended(base_engine, base_image, "echo 12345 > /srv/new; rm /etc/issue")
    image = base_engine.commit("box", "mine/box", CommitRequest("why", "Ada"))
    newest, oldest = base_engine.history("mine/box")
    assert (newest.comment, newest.author) == ("why", "Ada")
    assert newest.created_by.startswith("sh -ec ")
    assert (newest.diffid, newest.size_bytes) == (image.layers[-1], 6)
    assert newest.files is not None
    assert 4 <= newest.files < 10
    assert oldest.created_by == "layer 0"
    assert oldest.size_bytes > 10_000_000
    assert oldest.files is not None
    assert oldest.files > 1000
    assert json.dumps(str(oldest.diffid))
    base_engine.remove_image("mine/box", force=True)
