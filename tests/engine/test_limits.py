"""Limits on swap and processors: what is refused, what is in force."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cellblock_engine import InvalidInput, LimitNotEnforceable, Limits, RunRequest
from cellblock_engine.linux import cgroups
from support import capabilities


@pytest.mark.parametrize(
    "words",
    [
        {"memory_swap": "1g"},
        {"memory": "64m", "memory_swap": "32m"},
        {"memory": "64m", "memory_swap": "-2"},
        {"cpuset_cpus": ""},
        {"cpuset_cpus": "0,"},
        {"cpuset_cpus": "all"},
    ],
)
def test_what_cannot_be_meant(words):
    with pytest.raises(InvalidInput):
        Limits(**words)


def test_swap_equal_to_memory_is_no_swap_and_needs_no_accounting():
    assert not cgroups.Limits(1 << 26, memory_swap_bytes=1 << 26).swaps
    assert "memory-swap" not in cgroups.Limits(1 << 26, memory_swap_bytes=1 << 26).named()
    assert "memory-swap" in cgroups.Limits(1 << 26, memory_swap_bytes=1 << 27).named()


def directory(engine, container, controller):
    membership = Path(f"/proc/{container.inspect().pid}/cgroup").read_text()
    assert membership
    (found,) = Path("/sys/fs/cgroup", controller).rglob(f"cellblock-{container.id[:12]}")
    return found


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(("swap", "bytes_"), [("128m", 128 << 20), (-1, None)])
def test_memory_and_swap_together_are_limited(engine, swap, bytes_):
    capabilities.need_memory_cgroup()
    if reason := cgroups.discover(os.getpid()).missing().get("memory-swap"):
        pytest.skip(reason)
    request = RunRequest(argv=("sleep", "100"), limits=Limits(memory="64m", memory_swap=swap))
    container = engine.start(request)
    group = directory(engine, container, "memory")
    written = int((group / "memory.memsw.limit_in_bytes").read_text())
    assert written == bytes_ if bytes_ else written > 1 << 60
    assert int((group / "memory.limit_in_bytes").read_text()) == 64 << 20
    assert container.inspect().limits == request.limits


@pytest.mark.usefixtures("root")
def test_processors_are_the_ones_named_also_for_later_commands(engine):
    if reason := cgroups.discover(os.getpid()).missing().get("cpuset-cpus"):
        pytest.skip(reason)
    last = max(os.sched_getaffinity(0))
    request = RunRequest(argv=("sleep", "100"), limits=Limits(cpuset_cpus=str(last)))
    container = engine.start(request)
    show = "import os; os.sched_setaffinity(0, range(64)); print(os.sched_getaffinity(0))"
    done = container.exec(["python3", "-c", show])
    assert done.stdout.decode() == f"{{{last}}}\n", done.stderr
    container.remove(force=True)
    assert not list(Path("/sys/fs/cgroup/cpuset").rglob(f"cellblock-{container.id[:12]}"))


@pytest.mark.usefixtures("root")
def test_processors_that_are_not_there_are_refused_by_name(engine):
    if reason := cgroups.discover(os.getpid()).missing().get("cpuset-cpus"):
        pytest.skip(reason)
    with pytest.raises(LimitNotEnforceable, match="cpuset-cpus 4097: the processors"):
        engine.run("host", ["true"], limits=Limits(cpuset_cpus="4097"))
    assert engine.containers() == ()
