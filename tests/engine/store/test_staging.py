import json
import os
import time
from pathlib import Path

import pytest

from cellblock_engine.errors import Conflict
from cellblock_engine.layout import Layout
from cellblock_engine.store import Store
from cellblock_engine.store.locks import Kind, locked, try_lock
from cellblock_engine.store.staging import Staging


def test_opening_a_store_touches_nothing(layout: Layout):
    store = Store(layout)
    store.sweep()
    assert store.images.list() == ()
    assert not layout.home.exists()


def test_a_sweep_leaves_what_is_held(tmp_path: Path):
    staging = Staging(tmp_path / "staging")
    with staging.directory() as directory, staging.file() as (fd, path):
        (directory / "sub").mkdir()
        os.write(fd, b"x")
        staging.sweep()
        assert (directory / "sub").is_dir()
        assert path.read_bytes() == b"x"
    assert os.listdir(tmp_path / "staging") == []


@pytest.mark.attack(70, 74)
def test_a_sweep_removes_what_nobody_holds(tmp_path: Path):
    staging = Staging(tmp_path)
    (tmp_path / "dead" / "deep").mkdir(parents=True)
    (tmp_path / "dead" / "deep" / "f").write_text("x")
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    staging.sweep()
    assert os.listdir(tmp_path) == []


@pytest.mark.attack(73)
def test_a_sweep_between_making_and_opening_costs_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    staging = Staging(tmp_path / "staging")
    mkdir, swept = Path.mkdir, []

    def make_and_lose(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        if path.parent == tmp_path / "staging" and not swept:
            swept.extend(staging.sweep())

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    with staging.directory() as directory:
        assert len(swept) == 1
        assert directory.is_dir()


def test_json_is_replaced_whole(tmp_path: Path):
    staging = Staging(tmp_path / "staging")
    target = tmp_path / "document.json"
    staging.publish_json(target, {"n": 1})
    staging.publish_json(target, {"n": 2})
    assert json.loads(target.read_bytes()) == {"n": 2}
    assert os.listdir(tmp_path / "staging") == []


def test_locks_exclude_and_end_with_their_holder(tmp_path: Path):
    path = tmp_path / "lock"
    with locked(path, Kind.SHARED, timeout_s=0, what="it"):
        with locked(path, Kind.SHARED, timeout_s=0, what="it"):
            pass
        started = time.monotonic()
        with (
            pytest.raises(Conflict, match="it is in use"),
            locked(path, Kind.EXCLUSIVE, timeout_s=0.2, what="it"),
        ):
            pytest.fail("the lock was not exclusive")
        assert 0.2 <= time.monotonic() - started < 2
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        fd = os.open(path, os.O_RDWR)
        os.write(writer, b"1" if try_lock(fd, Kind.EXCLUSIVE) else b"0")
        time.sleep(30)
        os._exit(0)
    assert os.read(reader, 1) == b"1"
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    with locked(path, Kind.EXCLUSIVE, timeout_s=1, what="it"):
        pass
    os.close(reader)
    os.close(writer)
