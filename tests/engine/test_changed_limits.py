"""What running containers use, and limits that change while they run or before they run again."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cellblock_engine import (
    Conflict,
    ContainerNotFound,
    Engine,
    InvalidInput,
    LimitNotEnforceable,
    Limits,
    OutOfMemory,
    RunRequest,
    StoreFull,
)
from cellblock_engine.linux import cgroups
from cellblock_engine.runtime import amendment, launcher, questions, state

pytestmark = pytest.mark.usefixtures("root")
MEBIBYTE = 1 << 20
SLEEP = ("sleep", "100")
HOLD = "import time; held = b'x' * ({} << 20); print('held', flush=True); time.sleep(100)"


@pytest.fixture(autouse=True)
def _limits():
    if reason := cgroups.discover(os.getpid()).refused(cgroups.Limits(1, 1, 1)):
        pytest.skip(reason)


def holding(engine: Engine, mebibytes: int, **limits):
    """Start a container that holds memory, and return it once it does."""
    request = RunRequest(argv=("python3", "-c", HOLD.format(mebibytes)), limits=Limits(**limits))
    container = engine.start(request)
    deadline = time.monotonic() + 10
    while not list(container.logs()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return container


def test_stats_tell_what_is_used_and_which_limits_are_in_force(engine):
    container = holding(engine, 40, memory="128m", cpus=0.5)
    first = container.stats()
    assert 40 * MEBIBYTE < first.memory_bytes <= first.memory_peak_bytes < 128 * MEBIBYTE
    assert (first.memory_limit_bytes, first.cpus_limit) == (128 * MEBIBYTE, 0.5)
    assert (first.pids, first.pids_limit) == (1, 4096)
    container.exec(["python3", "-c", "sum(range(3_000_000))"])
    second = container.stats()
    assert 0 < second.cpus_since(first) < 2
    assert second.cpu_seconds > first.cpu_seconds
    assert second.cpus_since(second) is None
    container.stop(grace_s=0)
    with pytest.raises(Conflict, match=r"is not running \(exited\): it uses nothing"):
        container.stats()
    container.remove()
    with pytest.raises(ContainerNotFound):
        container.stats()


def test_a_running_container_gets_what_is_given_and_keeps_the_rest(engine):
    container = engine.start(RunRequest(argv=SLEEP, limits=Limits(memory="64m", pids=50)))
    wanted = Limits(memory="64m", cpus=0.5, pids=60)
    assert container.update(Limits(cpus=0.5, pids=60)) == wanted
    assert container.inspect().limits == engine.container(container.id).inspect().limits == wanted
    stats = container.stats()
    assert (stats.memory_limit_bytes, stats.cpus_limit, stats.pids_limit) == (64 << 20, 0.5, 60)
    groups = Path("/sys/fs/cgroup").rglob(f"cellblock-{container.id[:12]}")
    (file,) = {path.resolve() for group in groups for path in group.glob("pids.max")}
    assert file.read_text() == "60\n"


def test_a_verdict_names_the_limit_that_was_in_force(engine):
    container = engine.start(RunRequest(argv=SLEEP, limits=Limits(memory="512m")))
    container.update(Limits(memory="32m"))
    done = container.exec(["python3", "-c", "bytearray(b'x') * (100 << 20)"])
    assert isinstance(done.verdict, OutOfMemory)
    assert (done.verdict.limit_bytes, done.verdict.own) == (32 << 20, True)


def test_memory_in_use_is_not_taken_back_and_all_stays_as_it_was(engine):
    container = holding(engine, 60, memory="128m")
    before = container.stats()
    with pytest.raises(LimitNotEnforceable, match=r"cannot limit memory to 16 MiB: .*are in use"):
        container.update(Limits(memory="16m", cpus=0.5, pids=9))
    after = container.stats()
    assert (after.memory_limit_bytes, after.cpus_limit, after.pids_limit) == (128 << 20, None, 4096)
    assert before.memory_peak_bytes <= after.memory_peak_bytes
    assert container.inspect().limits == Limits(memory="128m")
    assert container.inspect().status == "running"


def test_new_limits_hold_from_the_next_start(engine):
    container = engine.create(RunRequest(argv=SLEEP, name="box", limits=Limits(memory="64m")))
    assert container.update(Limits(memory="96m", pids=70)) == Limits(memory="96m", pids=70)
    engine.start("box")
    assert container.stats().memory_limit_bytes == 96 << 20
    container.update(Limits(pids=80))
    container.stop(grace_s=0)
    container.update(Limits(cpus=0.5))
    assert container.inspect().limits == Limits(memory="96m", cpus=0.5, pids=80)
    engine.start("box")
    stats = container.stats()
    assert (stats.memory_limit_bytes, stats.cpus_limit, stats.pids_limit) == (96 << 20, 0.5, 80)
    container.remove(force=True)
    with pytest.raises(ContainerNotFound):
        container.update(Limits(cpus=1))


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({}, InvalidInput, "nothing to change"),
        ({"cpuset_cpus": "0"}, InvalidInput, "cpuset-cpus cannot be changed"),
        ({"cpus": 4000}, LimitNotEnforceable, "more than the"),
        ({"memory": "256m"}, InvalidInput, "memory-swap is memory and swap together"),
        ({"memory": "256m", "memory_swap": "64m"}, InvalidInput, "memory-swap is memory and swap"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(engine, running, words, error, said):
    limits = Limits(memory="64m", memory_swap="64m")
    container = engine.create(RunRequest(argv=SLEEP, limits=limits))
    if running:
        engine.start(container.name)
    with pytest.raises(error, match=said):
        container.update(Limits(**words))
    assert container.inspect().limits == limits


def test_many_changes_at_once_lose_none(engine):
    boxes = [engine.create(RunRequest(argv=SLEEP)) for _ in range(2)]
    engine.start(boxes[0].name)
    failures = []

    def change(container, **words):
        try:
            for _ in range(5):
                engine.container(container.name).update(Limits(**words))
        except Exception as error:
            failures.append(error)
            raise

    threads = [
        threading.Thread(target=change, args=(box,), kwargs=words)
        for box in boxes
        for words in ({"memory": "64m"}, {"cpus": 0.5}, {"pids": 50})
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for box in boxes:
        assert box.inspect().limits == Limits(memory="64m", cpus=0.5, pids=50)


def test_limits_that_change_while_a_start_is_on_its_way_hold(engine, monkeypatch):
    container = engine.create(RunRequest(argv=SLEEP, name="box", limits=Limits(pids=50)))
    launch = launcher.launch

    def late(layout, spec, streams):
        assert spec.limits.pids == 50
        container.update(Limits(pids=60))
        return launch(layout, spec, streams)

    monkeypatch.setattr(launcher, "launch", late)
    engine.start("box")
    assert container.stats().pids_limit == container.inspect().limits.pids == 60


def test_a_container_that_others_hold_is_waited_for_and_then_left_as_it_was(engine, monkeypatch):
    container = engine.create(RunRequest(argv=SLEEP))
    monkeypatch.setattr("cellblock_engine.container._LAST_WORDS_S", 0.1)
    lock = state.hold_lock(str(container._directory))
    with pytest.raises(Conflict, match="does not come to rest"):
        container.update(Limits(pids=50))
    os.close(lock)
    assert container.inspect().limits == Limits()


def test_a_monitor_that_does_not_answer_is_named_in_time(engine, monkeypatch):
    container = engine.start(RunRequest(argv=SLEEP))
    stat = Path(f"/proc/{container.inspect().pid}/stat").read_text()
    monitor = int(stat.rpartition(")")[2].split()[1])
    os.kill(monitor, signal.SIGSTOP)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(questions, "_PATIENCE_S", 0.2)
            with pytest.raises(Conflict, match=r"cannot tell what it uses: .*does not answer"):
                container.stats()
    finally:
        os.kill(monitor, signal.SIGCONT)
    assert container.stats().pids == 1


def test_without_room_on_the_disk_nothing_changes(engine, monkeypatch):
    container = engine.create(RunRequest(argv=SLEEP))

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(amendment.os, "fsync", full)
    with pytest.raises(StoreFull, match="a container's new limits"):
        container.update(Limits(pids=50))
    assert container.inspect().limits == Limits()
    assert not [name for name in os.listdir(container._directory) if name.startswith(".config")]
