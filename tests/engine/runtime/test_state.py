"""What a container's directory says of it."""

from __future__ import annotations

import os

import pytest

from cellblock_engine.runtime import state, sweep


def test_a_directory_without_state_is_a_container_that_was_created(tmp_path):
    assert state.read(str(tmp_path)) == state.State(status="created")


def test_a_state_comes_back_as_it_was_written(tmp_path):
    written = state.State(status="exited", exit_code=3, finished_at=1.5, verdict={"kind": "oom"})
    state.write(str(tmp_path), written)
    assert state.read(str(tmp_path)) == written


def test_running_is_believed_only_while_a_monitor_holds_the_lock(tmp_path):
    state.write(str(tmp_path), state.State(status="running", pid=1))
    lock = state.hold_lock(str(tmp_path))
    assert state.is_live(str(tmp_path))
    assert state.read(str(tmp_path)).status == "running"
    os.close(lock)
    assert not state.is_live(str(tmp_path))
    dead = state.read(str(tmp_path))
    assert (dead.status, dead.exit_code, dead.pid) == ("exited", 137, None)
    assert dead.verdict == {"kind": "killed", "reason": "its monitor process was killed"}


def test_a_state_of_an_older_version_has_fewer_fields(tmp_path):
    (tmp_path / "state.json").write_text('{"status": "exited", "exit_code": 3}')
    assert state.read(str(tmp_path)) == state.State(status="exited", exit_code=3)


def test_a_state_of_a_newer_version_has_more_fields(tmp_path):
    (tmp_path / "state.json").write_text('{"status": "exited", "exit_code": 3, "mood": "good"}')
    assert state.read(str(tmp_path)) == state.State(status="exited", exit_code=3)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"status": "asleep"}', '{"status": []}'])
def test_what_is_no_state_is_damaged(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    verdict = state.read(str(tmp_path)).verdict
    assert verdict is not None
    assert verdict["reason"] == "its record is damaged"


def test_a_dead_container_is_held_off_while_it_is_set_right(tmp_path, monkeypatch):
    directory = str(tmp_path)
    with state.held_off(directory) as standing:
        assert standing == "new"
    lock = state.hold_lock(directory)
    with state.held_off(directory) as standing:
        assert standing == "live"
    os.close(lock)
    monkeypatch.setattr(state, "_ATTEMPTS", 0)
    with state.held_off(directory) as standing:
        assert standing == "dead"
        assert not state.is_live(directory)  # to whoever looks meanwhile
        with pytest.raises(BlockingIOError):
            state.hold_lock(directory)
    os.close(state.hold_lock(directory))


def test_a_sweep_takes_no_socket_from_a_monitor_that_starts_meanwhile(tmp_path, monkeypatch):
    containers, run = tmp_path / "containers", tmp_path / "run"
    directory = containers / ("ab" * 32)
    directory.mkdir(parents=True)
    run.mkdir()
    socket = run / f"{'ab' * 6}.sock"

    def start_meanwhile(*_: object) -> list[str]:
        os.close(state.hold_lock(str(directory)))
        socket.touch()
        return []

    monkeypatch.setattr(sweep.cgroups, "remove_stale", start_meanwhile)
    sweep.sweep(str(containers), str(tmp_path / "names"), str(run))
    assert socket.exists()
    monkeypatch.setattr(state, "_ATTEMPTS", 0)
    monkeypatch.setattr(sweep.cgroups, "remove_stale", lambda *_: [])
    sweep.sweep(str(containers), str(tmp_path / "names"), str(run))
    assert not socket.exists()


@pytest.mark.attack(70)
@pytest.mark.parametrize(
    "notes",
    [b"\0\0\0\0", b"\xff\xfe", b"../x", b"/sys/fs/cgroup", b"caller ", b"caller x/y/z", b"\n/\n"],
)
def test_a_damaged_note_holds_up_no_sweep(tmp_path, notes):
    containers, run = tmp_path / "containers", tmp_path / "run"
    directory = containers / ("ab" * 32)
    directory.mkdir(parents=True)
    run.mkdir()
    (directory / "lock").write_bytes(notes)
    (directory / "config.json").write_text('{"removal": "if abandoned"}')
    assert sweep.sweep(str(containers), str(tmp_path / "names"), str(run))
