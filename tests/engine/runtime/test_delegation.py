"""What systemd is asked for, and what becomes of answers that are none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine.linux.cgroups import Delegable
from cellblock_engine.linux.cgroups.unified import Manager
from cellblock_engine.runtime import delegation
from support import fakebus


@pytest.fixture(name="bus")
def _bus(tmp_path: Path) -> Iterator[fakebus.FakeBus]:
    with fakebus.serving(tmp_path / "bus") as bus:
        yield bus


def ask(path: Path, slice_name: str | None = None) -> None:
    manager = Manager(str(path), bus_found=True, user=os.geteuid())
    delegation.delegate(Delegable(manager, "/top", slice_name, {}), 4711, "store")


@pytest.mark.parametrize("slice_name", [None, "user-7.slice"])
def test_a_delegated_scope_for_one_process_is_asked_for(bus, slice_name) -> None:
    ask(bus.path, slice_name)
    asked = dict(bus.calls)
    assert list(asked) == ["Hello", "AddMatch", "StartTransientUnit"]
    name, mode, properties, others = asked["StartTransientUnit"]
    assert name.startswith("cellblock-store-")
    assert name.endswith(".scope")
    assert (mode, others) == ("fail", [])
    said = dict(properties)
    assert said["Delegate"] == ("b", True)
    assert said["PIDs"] == ("au", [4711])
    assert said["TasksMax"] == ("t", 2**64 - 1)
    assert said.get("Slice") == (slice_name and ("s", slice_name))
    assert f"arg2='{name}'" in asked["AddMatch"][0]
    ask(bus.path)
    assert bus.calls[-1][1][0] != name


def test_what_systemd_refuses_is_said_in_one_line(bus) -> None:
    bus.error = "Interactive authentication\nrequired."
    with pytest.raises(delegation.Undelegated) as caught:
        ask(bus.path)
    assert str(caught.value) == "systemd gave no scope: Interactive authentication required."


def test_a_job_that_fails_gives_nothing(bus) -> None:
    bus.result = "timeout"
    with pytest.raises(delegation.Undelegated, match="its job ended with 'timeout'"):
        ask(bus.path)


def test_what_others_on_the_bus_tell_of_the_job_is_not_believed(bus) -> None:
    bus.forged = "failed"
    ask(bus.path)
    bus.forged, bus.result = "done", "failed"
    with pytest.raises(delegation.Undelegated, match="its job ended with 'failed'"):
        ask(bus.path)


@pytest.mark.parametrize("silent", ["Hello", "AddMatch", "StartTransientUnit"])
def test_who_does_not_answer_holds_nobody_up(bus, monkeypatch, silent) -> None:
    monkeypatch.setattr(delegation, "_PATIENCE_S", 0.3)
    bus.silent = silent
    begun = time.monotonic()
    with pytest.raises(delegation.Undelegated, match="systemd does not answer on"):
        ask(bus.path)
    assert time.monotonic() - begun < 5


def test_a_bus_that_is_gone_is_named(tmp_path) -> None:
    (tmp_path / "bus").touch()
    for path in (tmp_path / "bus", tmp_path / "none"):
        with pytest.raises(delegation.Undelegated, match=f"systemd does not answer on {path}"):
            ask(path)
