"""A store and all it has, removed; what is no store, left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cellblock_engine import Conflict, ContainerNotFound, Engine, RunRequest, StoreError
from cellblock_engine.layout import Layout
from cellblock_engine.store import Store
from support import leaks

SLEEP = ("sleep", "600")


def gone(layout: Layout) -> bool:
    return not (layout.home.exists() or layout.run.exists())


def hollow(home: Path) -> Layout:
    layout = Layout.default(home)
    with Store(layout).referencing():
        return layout


@pytest.mark.usefixtures("root")
def test_running_containers_are_refused_by_name_and_ended_by_force(engine):
    layout = engine._layout
    engine.start(RunRequest(argv=SLEEP, name="web"))
    engine.run(argv=["true"], name="done", remove=False)
    with pytest.raises(Conflict, match=r"containers are running \(web\)"):
        engine.reset()
    assert engine.container("web").inspect().status == "running"
    removed = engine.reset(force=True)
    assert (removed.containers, removed.images) == (2, 0)
    assert removed.freed_bytes > 0
    assert gone(layout)
    leaks.quiet(layout.home, layout.run, processes=0)
    assert list(leaks.engine_pids(layout.home, layout.run)) == []
    assert engine.run(argv=["echo", "again"]).stdout == b"again\n"


@pytest.mark.usefixtures("root")
def test_images_and_layers_go_and_are_counted(engine, base_image):
    engine.pull(base_image)
    removed = engine.reset()
    assert (removed.containers, removed.images, removed.layers) == (0, 1, 1)
    assert removed.freed_bytes > 10**7
    assert gone(engine._layout)


@pytest.mark.usefixtures("root")
def test_ids_of_other_stores_stay_locked(engine, tmp_path):
    with Engine.open(tmp_path / "other") as other:
        box = other.start(RunRequest(argv=SLEEP))
        engine.run(argv=["true"])
        ranges = engine._layout.id_ranges.stat().st_ino
        engine.reset()
        assert other._layout.id_ranges.stat().st_ino == ranges
        assert box.exec(["echo", "on"]).stdout == b"on\n"
        other.reset(force=True)


@pytest.mark.usefixtures("root")
def test_a_container_of_a_killed_monitor_goes_with_its_cgroups(engine):
    box = engine.start(RunRequest(argv=SLEEP))
    for pid in leaks.engine_pids(engine.home, engine._layout.run):
        os.kill(pid, 9)
    engine.reset(force=True)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/**/cellblock-{box.id[:12]}"))
    assert gone(engine._layout)


def test_a_damaged_store_can_be_reset(tmp_path):
    layout = hollow(tmp_path / "store")
    (layout.containers / ("ab" * 32)).mkdir(parents=True)
    (layout.containers / ("ab" * 32) / "config.json").write_text("{")
    assert Engine.open(layout.home).reset().containers == 1
    assert gone(layout)


def test_links_in_layers_lead_nowhere(tmp_path):
    layout = hollow(tmp_path / "store")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"x" * 10**6)
    tree = layout.layers / ("cd" * 32) / "fs"
    tree.mkdir(parents=True)
    (tree / "link").symlink_to(tmp_path / "precious")
    (layout.home / "blobs").symlink_to(tmp_path / "precious")
    removed = Engine.open(layout.home).reset()
    assert removed.freed_bytes < 10**6
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("entries", [("thesis.tex",), ("containers", "host"), ("gc.lock", "x")])
def test_what_is_no_store_is_left_alone(tmp_path, entries):
    for name in entries:
        (tmp_path / "home" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "home" / name).touch()
    with pytest.raises(StoreError, match=r"does not look like a store.* nothing was removed"):
        Engine.open(tmp_path / "home").reset(force=True)
    assert sorted(os.listdir(tmp_path / "home")) == sorted(entries)


def test_a_store_of_today_without_a_mark_is_one(tmp_path):
    layout = hollow(tmp_path / "store")
    layout.format.unlink()
    Engine.open(layout.home).reset()
    assert gone(layout)


def test_what_others_put_into_a_store_is_left_and_named(tmp_path):
    layout = hollow(tmp_path / "store")
    (layout.home / "notes").touch()
    assert Engine.open(layout.home).reset().left == ("notes",)
    assert os.listdir(layout.home) == ["notes"]


def test_a_newer_store_is_refused(tmp_path):
    layout = hollow(tmp_path / "store")
    layout.format.write_text('{"format": 99, "writer": "7.0"}')
    with pytest.raises(StoreError, match="format 99"):
        Engine.open(layout.home).reset(force=True)
    assert layout.format.exists()


def test_nothing_is_no_error_and_makes_nothing(tmp_path):
    removed = Engine.open(tmp_path / "store").reset()
    assert (removed.containers, removed.freed_bytes, removed.left) == (0, 0, ())
    assert os.listdir(tmp_path) == []


def test_a_pull_under_way_is_waited_for_then_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cellblock_engine.reset._WAIT_S", 0.1)
    layout = Layout.default(tmp_path / "store")
    with Store(layout).referencing(), pytest.raises(Conflict, match="the store is in use"):
        Engine.open(layout.home).reset(force=True)
    assert layout.format.exists()


def test_who_waited_for_the_store_meanwhile_is_told(tmp_path):
    from cellblock_engine.store.locks import Kind, locked

    layout = hollow(tmp_path / "store")
    failures: list[Conflict] = []

    def wait() -> None:
        try:
            with Store(layout).referencing():
                pass
        except Conflict as error:
            failures.append(error)

    with locked(layout.gc_lock, Kind.EXCLUSIVE, timeout_s=1, what="it"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.3)
        layout.gc_lock.unlink()
    waiting.join()
    assert [str(error) for error in failures] == [
        "the image store was removed in the meantime: try again"
    ]


@pytest.mark.usefixtures("root")
def test_the_command_needs_a_yes_and_says_what_went(tmp_path):
    home = tmp_path / "store"
    with Engine.open(home) as engine:
        engine.start(RunRequest(argv=SLEEP, name="web"))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cellblock", "system", "reset", *words],
            env={**os.environ, "CELLBLOCK_HOME": str(home)},
            input="y\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    refused = command()
    assert (refused.returncode, refused.stderr) == (
        125,
        "cellblock: nobody can be asked: stdin is not a terminal; -f resets without asking\n",
    )
    assert engine.container("web").inspect().status == "running"
    done = command("-f")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Deleted containers: 1\nDeleted images: 0\n")
    with pytest.raises(ContainerNotFound):
        engine.container("web")
    assert gone(Layout.default(home))
