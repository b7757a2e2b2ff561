"""Limits by control groups of version 2: of systemd where that gives them, else of one's own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine import (
    Container,
    Engine,
    LimitNotEnforceable,
    Limits,
    OutOfMemory,
    PidsExceeded,
    RunRequest,
    StartFailed,
)
from cellblock_engine.layout import Layout
from cellblock_engine.linux import cgroups
from cellblock_engine.runtime import launcher

MEBIBYTE = 1 << 20
PYTHON = "/usr/bin/python3"
EAT = "held = bytearray(b'x') * (300 << 20); print('ate it')"
HOLD = "import time; held = b'x' * ({} << 20); print('held', flush=True); time.sleep(300)"
SPIN = "import time; end = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
COUNT = "import time\nwhile True: print('.', flush=True); time.sleep(0.05)"
BOMB = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        time.sleep(300)
"""
TOLD = """
import pathlib
top = pathlib.Path("/sys/fs/cgroup")
for name in ("memory.max", "cpu.max", "pids.max"):
    print((top / name).read_text().strip())
print(pathlib.Path("/proc/self/cgroup").read_text().strip())
try:
    (top / "memory.max").write_text("max")
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture(autouse=True)
def _v2() -> None:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    if [line.partition(":")[0] for line in lines] != ["0"]:
        pytest.skip("needs cgroup v2 alone")
    wanted = cgroups.Limits(memory_bytes=1, cpus=1, pids=1)
    if reason := cgroups.discover(os.getpid()).refused(wanted):
        pytest.skip(f"needs control groups: {reason}")


@pytest.fixture(name="groups")
def _groups(engine: Engine, tmp_path: Path) -> Iterator[None]:
    """Check that no group of a container is left."""
    before = groups_below()
    yield
    launcher.dismiss(Layout.default(tmp_path / "store"))
    deadline = time.monotonic() + 20
    while (left := groups_below() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == set()


def groups_below() -> set[Path]:
    return {path for path in Path("/sys/fs/cgroup").rglob("cellblock-*") if path.is_dir()}


def group_of(container: Container) -> Path:
    (line,) = Path(f"/proc/{container.inspect().pid}/cgroup").read_text().splitlines()
    return Path("/sys/fs/cgroup") / line.removeprefix("0::/")


def started(engine: Engine, program: str, **limits) -> Container:
    container = engine.start(RunRequest(argv=(PYTHON, "-c", program), limits=Limits(**limits)))
    deadline = time.monotonic() + 30
    while not list(container.logs()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return container


def run(engine: Engine, program: str, **limits):
    return engine.run("host", [PYTHON, "-c", program], limits=Limits(**limits))


@pytest.mark.usefixtures("groups")
def test_a_container_that_reaches_its_memory_limit_is_out_of_memory(engine: Engine) -> None:
    done = run(engine, EAT, memory="64m")
    assert isinstance(done.verdict, OutOfMemory)
    assert done.verdict.own
    assert done.verdict.limit_bytes == 64 * MEBIBYTE
    assert 60 * MEBIBYTE < done.verdict.peak_bytes <= 64 * MEBIBYTE
    assert b"ate it" not in done.stdout


@pytest.mark.usefixtures("groups")
def test_processors_are_limited_and_counted(engine: Engine) -> None:
    container = started(engine, f"print(flush=True)\n{SPIN}\n" + HOLD.format(1), cpus=0.2)
    try:
        begun = container.stats()
        time.sleep(1.5)
        now = container.stats()
        assert 0 < now.cpus_since(begun) < 0.4
        throttled = dict(line.split() for line in read(container, "cpu.stat").splitlines())
        assert int(throttled["nr_throttled"]) > 0
    finally:
        container.kill()
        container.wait(30)


@pytest.mark.usefixtures("groups")
def test_processes_are_limited(engine: Engine) -> None:
    done = run(engine, BOMB, pids=20)
    assert isinstance(done.verdict, PidsExceeded)
    assert done.verdict.limit == 20
    container = started(engine, HOLD.format(1), pids=1)
    try:
        with pytest.raises(
            StartFailed, match="as many processes run in the container as its limit"
        ):
            container.exec(["true"])
        container.update(Limits(pids=2))
        assert container.exec(["true"]).exit_code == 0
    finally:
        container.kill()
        container.wait(30)


@pytest.mark.usefixtures("groups")
def test_limits_are_told_inside_and_cannot_be_written(engine: Engine) -> None:
    done = run(engine, TOLD, memory="64m", cpus=0.5, pids=50)
    told = done.stdout.decode().splitlines()
    limits = [str(64 * MEBIBYTE), "50000 100000", "50"]
    assert told == [*limits, "0::/", "Read-only file system"], done.stderr


@pytest.mark.usefixtures("groups")
def test_limits_change_while_it_runs_and_nobody_is_killed_for_it(engine: Engine) -> None:
    container = started(engine, HOLD.format(40), memory="128m", pids=50)
    try:
        container.update(Limits(memory="96m", cpus=0.5, pids=60))
        assert read(container, "memory.max") == str(96 * MEBIBYTE)
        assert read(container, "memory.swap.max") == "0"
        assert read(container, "memory.high") == "max"
        assert read(container, "cpu.max") == "50000 100000"
        assert read(container, "pids.max") == "60"
        with pytest.raises(LimitNotEnforceable, match=r"cannot limit memory to 16 MiB: 4\d"):
            container.update(Limits(memory="16m", pids=70))
        assert read(container, "memory.max") == str(96 * MEBIBYTE)
        assert read(container, "pids.max") == "60"
        assert read(container, "cgroup.freeze") == "0"
        assert container.inspect().status == "running"
        stats = container.stats()
        assert stats.memory_limit_bytes == 96 * MEBIBYTE
        assert 40 * MEBIBYTE < stats.memory_bytes <= stats.memory_peak_bytes
        assert (stats.pids, stats.pids_limit) == (1, 60)
        assert container.exec(["true"]).exit_code == 0
    finally:
        container.kill()
        container.wait(30)


def read(container: Container, name: str) -> str:
    return (group_of(container) / name).read_text().strip()


@pytest.mark.usefixtures("groups")
def test_a_container_without_limits_is_in_a_group_as_well(engine: Engine) -> None:
    container = started(engine, HOLD.format(1))
    try:
        group = group_of(container)
        assert group.name == f"cellblock-{container.id[:12]}"
        assert read(container, "pids.max") == "4096"
        own = Path("/proc/self/cgroup").read_text().strip().removeprefix("0::/")
        assert not str(group).startswith(f"/sys/fs/cgroup/{own}/")
    finally:
        container.kill()
        container.wait(30)


@pytest.mark.usefixtures("groups")
def test_nothing_is_left_of_a_killed_monitor(engine: Engine) -> None:
    container = started(engine, HOLD.format(1), memory="64m")
    group, pid = group_of(container), container.inspect().pid
    monitor = next(
        int(line.split()[1])
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("PPid:")
    )
    os.kill(monitor, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while group.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group.exists()
    assert "killed" in container.inspect().verdict
