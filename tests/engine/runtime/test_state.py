"""What a container's directory says of it."""

from __future__ import annotations

import os

import pytest

from cellblock_engine.runtime import state


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
