"""A disk that fills up half-way: one line says so, nothing half is visible, and then it works.

What is asked for is more than there is room for when the work begins, but it is not told: as where
somebody else fills the disk meanwhile.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cellblock_engine import Engine, RunRequest, StoreError, StoreFull
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import launcher
from cellblock_engine.store.blobs import Blobs
from support import leaks
from support.registry import Registry

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.attack(72)]

NOISE_BYTES = 40_000_000
LEFT_BYTES = 10_000_000
SIZE = "640m"


@pytest.fixture
def small(tmp_path: Path, base_image: str) -> Iterator[Engine]:
    """An engine on a small disk of its own, with the container ``box`` that wrote 40 MB."""
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], check=True)
    try:
        with Engine.open(disk / "store") as engine:
            engine.pull(base_image)
            write = f"head -c {NOISE_BYTES} /dev/urandom > /srv/noise; sync"
            container = engine.start(RunRequest(base_image, ("sh", "-ec", write), name="box"))
            assert container.wait(60).exit_code == 0
            yield engine
            for info in engine.containers():
                engine.container(info.id).remove(force=True)
        layout = Layout.default(disk / "store")
        launcher.dismiss_all(layout)
        leaks.quiet(layout.home, layout.run, processes=0)
    finally:
        # An exception that a test has caught holds descriptors until later.
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def fill(small: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path]]:
    """Return what fills the disk but for 10 MB; the file is to be removed."""
    filler = small.home.parent / "filler"

    def fill() -> Path:
        free_bytes = shutil.disk_usage(small.home).free - LEFT_BYTES
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free_bytes)
        return filler

    monkeypatch.setattr(Blobs, "check_room", lambda self, size_bytes: None)
    yield fill
    filler.unlink(missing_ok=True)


def visible(engine: Engine) -> list[str]:
    """Return what the store has of images, and of unfinished work."""
    layout = Layout.default(engine.home)
    places = (layout.blobs, layout.layers, layout.references, layout.staging)
    return sorted(str(path) for place in places if place.exists() for path in place.iterdir())


def assert_full(error: StoreError) -> None:
    assert re.search(r"(?i)no space", str(error)), str(error)
    assert "\n" not in str(error)


def assert_whole(engine: Engine, image: str) -> None:
    size = engine.run(image, ["stat", "-c", "%s", "/srv/noise"]).check().stdout
    assert int(size) == NOISE_BYTES


def test_a_commit(small: Engine, fill):
    before = visible(small)
    filler = fill()
    with pytest.raises(StoreFull) as raised:
        small.commit("box", "mine/box:1")
    assert_full(raised.value)
    assert visible(small) == before
    assert len(small.images()) == 1
    filler.unlink()
    small.commit("box", "mine/box:1")
    assert_whole(small, "mine/box:1")


def test_a_commit_of_a_running_container(small: Engine, base_image: str, fill):
    write = f"head -c {NOISE_BYTES} /dev/urandom > /srv/noise; sync; echo done; sleep 100"
    running = small.start(RunRequest(base_image, ("sh", "-ec", write), name="up"))
    while not list(running.logs()):
        pass
    before = visible(small)
    filler = fill()
    with pytest.raises(StoreFull) as raised:
        small.commit("up", "mine/box:1")
    assert_full(raised.value)
    assert visible(small) == before
    assert running.exec(["echo", "on"], timeout=10).stdout == b"on\n"
    filler.unlink()
    small.commit("up", "mine/box:1")
    assert_whole(small, "mine/box:1")


def test_a_save(small: Engine, fill):
    small.commit("box", "mine/box:1")
    filler = fill()
    target = small.home.parent / "out.tar"
    target.write_text("before")
    with pytest.raises(StoreError) as raised:
        small.save(["mine/box:1"], target)
    assert_full(raised.value)
    assert target.read_text() == "before"
    filler.unlink()
    assert sorted(os.listdir(target.parent)) == ["out.tar", "store"]
    small.save(["mine/box:1"], target)
    assert target.stat().st_size > NOISE_BYTES


def test_a_load(small: Engine, fill, tmp_path: Path):
    small.commit("box", "mine/box:1")
    small.save(["mine/box:1"], tmp_path / "box.tar")
    small.remove_image("mine/box:1", force=True)
    small.container("box").remove()
    small.prune()
    before = visible(small)
    filler = fill()
    with pytest.raises(StoreFull) as raised:
        small.load(tmp_path / "box.tar")
    assert_full(raised.value)
    assert visible(small) == before
    filler.unlink()
    small.load(tmp_path / "box.tar")
    assert_whole(small, "mine/box:1")


def test_a_push(small: Engine, fill, registry: Registry):
    name = f"{registry.host}/full/box:1"
    small.commit("box", name)
    before = visible(small)
    filler = fill()
    with pytest.raises(StoreFull) as raised:
        small.push(name)
    assert_full(raised.value)
    assert visible(small) == before
    filler.unlink()
    small.push(name)
    assert_whole(small, name)
