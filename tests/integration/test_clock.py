"""A wall clock that jumps, and process ids that come round again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from cellblock_engine import Conflict, Engine, RunRequest
from cellblock_engine.runtime import sweep

TEN_YEARS_S = 10 * 365 * 24 * 3600.0


@pytest.mark.attack(75)
@pytest.mark.parametrize("years_s", [TEN_YEARS_S, -TEN_YEARS_S], ids=["forward", "back"])
def test_a_jump_of_the_clock_ends_and_removes_nothing(engine: Engine, monkeypatch, years_s) -> None:
    made = engine.create(RunRequest(argv=("true",), name="made"))
    kept = engine.start(RunRequest(argv=("true",), name="kept"))
    kept.wait(30)
    running = engine.start(RunRequest(argv=("sleep", "100"), name="running"))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + years_s)
    layout = engine._layout
    assert sweep.sweep(str(layout.containers), str(layout.names), str(layout.run))
    assert engine.doctor().stale == ()
    assert {info.name: info.status for info in engine.containers()} == {
        "made": "created",
        "kept": "exited",
        "running": "running",
    }
    assert engine.run("host", ["echo", "on"], timeout=20).stdout == b"on\n"
    assert engine.start(made.name).wait(30).exit_code == 0
    begun = time.monotonic()
    assert running.stop(5).exit_code == 143
    assert time.monotonic() - begun < 10
    monkeypatch.undo()
    for container in (made, kept, running):
        container.remove()


@pytest.mark.attack(75)
def test_a_process_id_that_came_round_again_is_never_signalled(engine: Engine) -> None:
    """A state that a killed monitor left, whose pid is another process's by now."""
    container = engine.create(RunRequest(argv=("true",)))
    directory = engine._layout.containers / container.id
    with subprocess.Popen(["sleep", "100"]) as other:
        try:
            state = json.loads((directory / "state.json").read_text())
            state |= {"status": "running", "pid": other.pid, "started_at": time.time()}
            (directory / "state.json").write_text(json.dumps(state))
            assert container.inspect().status == "exited"
            assert container.inspect().pid is None
            for attempt in (
                lambda: container.kill(signal.SIGKILL),
                lambda: container.exec(["true"]),
            ):
                with pytest.raises(Conflict, match="is not running"):
                    attempt()
            container.stop(0)
            container.remove(force=True)
            assert other.poll() is None
            os.kill(other.pid, 0)
        finally:
            other.kill()
