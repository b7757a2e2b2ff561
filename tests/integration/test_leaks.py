"""Runs leave nothing behind: equal counts before and after.

``make soak`` does it at length: CELLBLOCK_RUNS, CELLBLOCK_AT_ONCE.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cellblock_engine import Engine, Limits, Removal, RunRequest, errors
from cellblock_engine.enforcement import kernel_limits
from cellblock_engine.layout import Layout
from cellblock_engine.linux import cgroups
from cellblock_engine.runtime import launcher
from support import leaks

pytestmark = pytest.mark.alone

RUNS = int(os.environ.get("CELLBLOCK_RUNS", "100"))
AT_ONCE = int(os.environ.get("CELLBLOCK_AT_ONCE", "20"))


@pytest.fixture
def unchanged(base_engine: Engine, base_home: Path, base_image: str):
    """Run something and assert that every count is as before, once the kernel has settled."""

    def check(work: Callable[[], None]) -> None:
        layout = Layout.default(base_home)
        base_engine.run(base_image, ["true"]).check()  # starts the spawner
        before = leaks.quiet(layout.home, layout.run, processes=2)
        work()
        after = leaks.settled(before, layout.home, layout.run)
        assert before.difference(after) == {}

    return check


def test_the_count_sees_a_running_container(
    base_engine: Engine, base_home: Path, base_image: str
) -> None:
    layout = Layout.default(base_home)
    base_engine.run(base_image, ["true"]).check()
    before = leaks.quiet(layout.home, layout.run, processes=2)
    with base_engine.spawn(RunRequest(image=base_image, argv=("sleep", "60"))) as attached:
        during = leaks.snapshot(layout.home, layout.run)
        attached.kill()
        container_id = attached.container.id
    grown = {"processes", "mounts", "namespaces", "store_entries", "own_fds"}
    assert grown <= set(before.difference(during))
    base_engine.container(container_id).remove(force=True)


@pytest.mark.attack(78)
def test_many_runs_in_a_row(base_engine: Engine, base_image: str, unchanged) -> None:
    def work() -> None:
        for number in range(RUNS):
            done = base_engine.run(base_image, ["sh", "-c", f"exit {number % 3}"])
            assert done.exit_code == number % 3

    unchanged(work)


@pytest.mark.attack(78)
def test_limits_that_are_told_and_changed(base_engine: Engine, base_image: str, unchanged) -> None:
    limits = Limits(memory="64m", cpus=0.5, pids=50)
    if reason := cgroups.discover(os.getpid()).refused(kernel_limits(limits)):
        pytest.skip(reason)
    request = RunRequest(
        image=base_image, argv=("sleep", "60"), limits=limits, removal=Removal.AT_END
    )

    def work() -> None:
        for _ in range(RUNS // 5):
            with base_engine.spawn(request) as attached:
                attached.container.update(Limits(memory="96m", cpus=1))
                assert attached.container.stats().memory_limit_bytes == 96 << 20
                attached.kill()
                attached.wait(30)

    unchanged(work)


@pytest.mark.attack(78)
def test_many_at_once(base_engine: Engine, base_image: str, unchanged) -> None:
    outputs: list[bytes] = []

    def one(number: int) -> None:
        argv = ["sh", "-c", f"sleep 0.2; echo {number}"]
        outputs.append(base_engine.run(base_image, argv).check().stdout)

    def work() -> None:
        threads = [threading.Thread(target=one, args=(number,)) for number in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=90)
        assert sorted(map(int, outputs)) == list(range(AT_ONCE))

    unchanged(work)


@pytest.mark.attack(73, 78)
def test_20_processes_at_once(base_engine: Engine, base_image: str, base_home: Path) -> None:
    layout = Layout.default(base_home)
    base_engine.run(base_image, ["true"]).check()
    launcher.dismiss(layout)  # the spawner leaves: the processes come to none, and leave none
    before = leaks.quiet(layout.home, layout.run, processes=0)
    argv = [sys.executable, "-c", CLIENT, str(base_home), base_image]
    clients = [subprocess.Popen(argv, stdout=-1, stderr=-1, text=True) for _ in range(20)]
    outputs = [client.communicate(timeout=110) for client in clients]
    assert outputs == [("7\n", "")] * 20
    after = leaks.settled(before, layout.home, layout.run)
    assert before.difference(after) == {}


CLIENT = """
import sys
from pathlib import Path
from cellblock_engine import Engine
with Engine.open(Path(sys.argv[1])) as engine:
    print(engine.run(sys.argv[2], ["sh", "-c", "exit 7"]).exit_code)
"""


def test_failed_starts(base_engine: Engine, base_image: str, unchanged) -> None:
    def work() -> None:
        for _ in range(10):
            with pytest.raises(errors.CommandNotFound):
                base_engine.run(base_image, ["no-such-command"])
            with pytest.raises(errors.CommandNotExecutable):
                base_engine.run(base_image, ["/etc/passwd"])

    unchanged(work)


def test_killed_and_timed_out(base_engine: Engine, base_image: str, unchanged) -> None:
    def work() -> None:
        for _ in range(5):
            assert base_engine.run(base_image, ["sleep", "60"], timeout=0.1).verdict
            request = RunRequest(image=base_image, argv=("sleep", "60"), removal=Removal.AT_END)
            with base_engine.spawn(request) as attached:
                attached.kill()
                assert attached.wait(timeout_s=20).exit_code == 137

    unchanged(work)


def test_host_image_runs(base_engine: Engine, unchanged) -> None:
    base_engine.run("host", ["true"]).check()  # makes the skeleton

    def work() -> None:
        for _ in range(10):
            base_engine.run("host", ["true"]).check()

    unchanged(work)
