"""SIGKILL at system calls that change something: of callers, spawner, monitor, init, workload.

``CELLBLOCK_POINTS`` is how many calls of each case are struck at most, spread over all that a
recorded run of it makes: 2 for ``make test``, 40 for ``make soak``. After each, the next command
finds all or nothing, and heals.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cellblock_engine import (
    CellblockError,
    ContainerNotFound,
    Engine,
    RunRequest,
)
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import sweep
from support import leaks, strikes
from support.fakeregistry import FakeRegistry, serving
from support.fakeuploads import accept
from support.struck import CASES, SCRIPT, Case, Site

pytestmark = [
    pytest.mark.alone,
    pytest.mark.usefixtures("root"),
    pytest.mark.timeout(3600),
    pytest.mark.attack(70),
]

POINTS = int(os.environ.get("CELLBLOCK_POINTS", "2"))
SEED = int(os.environ.get("CELLBLOCK_SEED", str(time.time_ns() % 1_000_000)))
PRELUDE = """
import sys
from pathlib import Path
import cellblock_engine.registry.push
from cellblock_engine import Engine, RunRequest
engine, name, file = Engine.open(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
"""
# Those whose work is long have all the points, others a third.
WHOLE = ("commit", "commit running", "push", "save", "rmi")
SPARE = 4
FEWER = max(POINTS // 3, 1)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with serving() as served:
        yield served


@pytest.fixture
def at_rest(base_engine: Engine, base_home: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a check that the next command heals, and that nothing is left of the last one."""
    monkeypatch.setattr(sweep, "_ABANDONED_S", -1.0)  # at once, not after a minute
    layout = Layout.default(base_home)
    groups, orphans = leaks.empty_cgroups(), leaks.orphans()

    def mounts() -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line for line in lines if str(layout.home) in line or str(layout.run) in line]

    before = mounts()

    def left() -> dict[str, list[str]]:
        return {
            "containers": sorted(os.listdir(layout.containers)),
            "names": sorted(os.listdir(layout.names)),
            "staging": sorted(os.listdir(layout.staging)),
            "sockets": sorted(path.name for path in layout.run.glob("????????????.sock")),
            "cgroups": sorted(map(str, leaks.empty_cgroups() - groups)),
            "processes": sorted(map(str, leaks.orphans() - orphans)),
            "engine": sorted(map(str, leaks.engine_pids(layout.home, layout.run)))[2:],
        }

    def check(image: str, point: strikes.Point) -> None:
        done = base_engine.run(image, ["echo", "healed"])
        assert done.stdout == b"healed\n", (SEED, point)
        for info in base_engine.containers():
            with suppress(ContainerNotFound):
                base_engine.container(info.id).remove(force=True)
        base_engine.doctor(repair=True)
        deadline = time.monotonic() + 10
        while any((now := left()).values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(now.values()), (SEED, point, now)
        assert mounts() == before

    return check


def strike(case: Case, home: Path, name: str, log: Path, point: strikes.Point | None) -> int:
    """Run a client that is killed at this point, or recorded without one; return its status."""
    argv = [sys.executable, "-B", "-c", PRELUDE + case.program, str(home), name, str(case.file)]
    words = strikes.options(strikes.CHANGING, log, point)
    done = subprocess.run([*words, "-f", *argv], check=False, capture_output=True, timeout=120)
    return done.returncode


def candidates(known: list[strikes.Point], most: int) -> list[strikes.Point]:
    """Return points in no order, some more than are wanted: not all are in every run."""
    chance = random.Random(SEED)
    chosen = strikes.spread(known, most + SPARE, chance)
    chance.shuffle(chosen)
    return chosen


@pytest.mark.parametrize("case", CASES)
def test_a_caller_is_killed(
    base_engine: Engine,
    base_home: Path,
    base_image: str,
    fake: FakeRegistry,
    tmp_path: Path,
    at_rest,
    case: str,
) -> None:
    log, folder = tmp_path / "strace.log", tmp_path / "folder"
    folder.mkdir()
    struck = CASES[case](Site(base_engine, base_image, fake, accept(fake), folder))

    def one(number: int, point: strikes.Point | None) -> int:
        name = struck.prepare(number)
        status = strike(struck, base_home, name, log, point)
        struck.check(number, name)
        return status

    base_engine.run(base_image, ["true"]).check()  # the spawner is nobody's child here
    assert one(0, None) == 0
    most = POINTS if case in WHOLE else FEWER
    known = strikes.points(log)
    chosen = candidates(known, most)
    hit = tried = 0
    while hit < most and tried < len(chosen):
        point = chosen[tried]
        tried += 1
        one(tried, point)
        hit += strikes.struck(log)
        at_rest(base_image, point)
    print(f"{case}: killed at {hit} of {tried} calls, of {len(known)} that differ")
    assert 2 * hit >= min(most, len(known)), (SEED, chosen, "not all points are in every run")


def _without_container(layout: Layout) -> list[int]:
    """Return the spawner and its next monitor: a monitor with a container has a name of its own."""
    return [
        pid
        for pid in leaks.engine_pids(layout.home, layout.run)
        if b"/spawn.py" in leaks.command(pid)
    ]


def engine_pid(home: Path, victim: str) -> int:
    """Return the spawner's id, or its next monitor's, once it has that."""
    layout = Layout.default(home)
    deadline = time.monotonic() + 10
    while len(pids := _without_container(layout)) != 2:
        assert time.monotonic() < deadline, pids
        time.sleep(0.01)
    spawner, monitor = sorted(pids, key=lambda pid: leaks.parent(pid) in pids)
    return spawner if victim in ("spawner", "sweep") else monitor


def run(engine: Engine, image: str) -> None:
    """Run to the end."""
    engine.run(image, ["sh", "-c", SCRIPT])


def lose_monitor(engine: Engine, image: str) -> None:
    """Kill a monitor, after which the spawner sweeps."""
    argv = ("sh", "-c", f"{SCRIPT}; sleep 60")
    with engine.spawn(RunRequest(image=image, argv=argv)) as attached:
        os.kill(leaks.parent(attached.pid), signal.SIGKILL)
        assert attached.wait(10).exit_code == 137


WORK = {"spawner": run, "sweep": lose_monitor, "monitor": run, "inside": run}


@pytest.mark.parametrize("victim", WORK)
def test_a_process_of_the_engine_is_killed(
    base_engine: Engine, base_home: Path, base_image: str, tmp_path: Path, at_rest, victim: str
) -> None:
    """``inside`` are init and the workload, by the calls that the monitor does not make.

    ``sweep`` is the spawner while it sets right what a killed monitor left.
    """
    log = tmp_path / "strace.log"

    def one(point: strikes.Point | None) -> int:
        base_engine.run(base_image, ["true"]).check()
        pid = engine_pid(base_home, victim)
        words = strikes.options(strikes.INSIDE, log, point)
        follow = ["-f"] if victim == "inside" else []
        # Anything but one of the engine's own errors is a defect.
        with strikes.attached(pid, [*words, *follow]), suppress(CellblockError):
            WORK[victim](base_engine, base_image)
        return pid

    recorded = one(None)
    beside = recorded if victim == "inside" else None
    known = strikes.points(log, beside=beside)
    chosen = candidates(known, FEWER)
    hit = tried = 0
    while hit < FEWER and tried < len(chosen):
        point = chosen[tried]
        tried += 1
        one(point)
        hit += strikes.struck(log)
        at_rest(base_image, point)
    assert 2 * hit >= min(FEWER, len(known)), (SEED, chosen, "not all points are in every run")
