"""Limits on swap, processors, shares and disks: what is refused, what is in force."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cellblock_engine import (
    InvalidInput,
    LimitNotEnforceable,
    Limits,
    OutOfMemory,
    RunRequest,
    enforcement,
)
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
        {"cpu_shares": 1},
        {"memory": "64m", "memory_reservation": "65m"},
        {"blkio_weight": 9},
        {"device_read_bps": {"vda": "1m"}},
        {"device_write_bps": {"/dev/vda": "0"}},
        {"device_read_iops": {"/dev/vda": "1m"}},
        {"mode": "some"},
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
    top = Path("/sys/fs/cgroup")
    hierarchy = top / controller if (top / controller).is_dir() else top
    (found,) = hierarchy.rglob(f"cellblock-{container.id[:12]}")
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
    if (group / "memory.max").exists():
        assert (group / "memory.swap.max").read_text() == (f"{64 << 20}\n" if bytes_ else "max\n")
        assert int((group / "memory.max").read_text()) == 64 << 20
    else:
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
    assert not list(Path("/sys/fs/cgroup").rglob(f"cellblock-{container.id[:12]}"))


@pytest.mark.usefixtures("root")
def test_processors_that_are_not_there_are_refused_by_name(engine):
    if reason := cgroups.discover(os.getpid()).missing().get("cpuset-cpus"):
        pytest.skip(reason)
    with pytest.raises(LimitNotEnforceable, match="cpuset-cpus 4097: the processors"):
        engine.run("host", ["true"], limits=Limits(cpuset_cpus="4097"))
    assert engine.containers() == ()


SHOWN = """
import json, pathlib
groups = pathlib.Path("/sys/fs/cgroup")
names = {
    "cpu/cpu.shares": 1, "memory/memory.soft_limit_in_bytes": 1,
    "cpu.weight": 1024 / 100, "memory.low": 1,
}
print(json.dumps([
    int(int((groups / name).read_text()) * unit)
    for name, unit in names.items() if (groups / name).exists()
]))
"""


@pytest.mark.usefixtures("root")
def test_shares_are_in_the_groups_that_it_sees_and_can_be_changed(engine):
    if reason := cgroups.discover(os.getpid()).refused(
        cgroups.Limits(cpu_shares=512, memory_reservation_bytes=1 << 25)
    ):
        pytest.skip(reason)
    limits = Limits(cpu_shares=512, memory_reservation="32m")
    container = engine.start(RunRequest(argv=("sleep", "100"), limits=limits))
    shown = container.exec(["python3", "-c", SHOWN])
    assert shown.stdout == b"[512, 33554432]\n", shown.stderr
    container.update(Limits(cpu_shares=256, memory_reservation="16m"))
    assert container.exec(["python3", "-c", SHOWN]).stdout == b"[256, 16777216]\n"
    assert container.inspect().limits.cpu_shares == 256
    with pytest.raises(InvalidInput, match="blkio-weight cannot be changed"):
        container.update(Limits(blkio_weight=100))


def disk_below(path):
    """Return the whole disk that a path's file system is on; skip where there is none such."""
    device = path.stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if (place / "partition").exists():
        place = place.parent
    if not Path("/dev", place.name).is_block_device():
        pytest.skip(f"needs a file system on a disk: {path} is on device {device}")
    return f"/dev/{place.name}"


# Its own buffer, aligned as O_DIRECT wants it.
WRITE = """
import mmap, os, time
fd = os.open("/root/written", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
block, begun = mmap.mmap(-1, 1 << 18), time.monotonic()
for _ in range(8):
    os.write(fd, block)
print(time.monotonic() - begun)
"""


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    "limits", ["--device-write-bps={}:1m", "--device-write-iops={}:4"], ids=["bytes", "writes"]
)
def test_writes_to_a_disk_take_the_time_that_they_must(cellblock, engine, limits):
    if reason := cgroups.discover(os.getpid()).missing().get("device-write-bps"):
        pytest.skip(reason)
    words = ("run", "--rm", limits.format(disk_below(engine.home.parent)), "host")
    done = cellblock(*words, sys.executable, "-c", WRITE)
    # A virtual disk may make several writes of one.
    assert 1 < float(done.stdout) < 100, done.stderr
    assert not list(Path("/sys/fs/cgroup").glob("blkio/**/cellblock-*"))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("path", ["/dev/null", "/etc", "/dev/not-there"])
def test_what_is_no_disk_is_refused_before_anything_is_made(engine, path):
    with pytest.raises(InvalidInput, match=f"cannot limit the traffic of {path}"):
        engine.run("host", ["true"], limits=Limits(device_read_bps={path: "1m"}))
    assert engine.containers() == ()


@pytest.mark.usefixtures("root")
def test_limits_on_disks_come_back_from_a_containers_config(engine):
    if reason := cgroups.discover(os.getpid()).missing().get("device-read-bps"):
        pytest.skip(reason)
    disk = disk_below(engine.home.parent)
    limits = Limits(device_read_bps={disk: "5m"}, device_read_iops={disk: 100})
    container = engine.create(RunRequest(argv=("true",), limits=limits))
    assert container.inspect().limits == limits
    assert container.inspect().limits.device_read_bps == {disk: 5 << 20}
    assert engine.start(container.id).wait().exit_code == 0
    with pytest.raises(InvalidInput, match="device-read-bps cannot be changed"):
        container.update(limits)


@pytest.mark.usefixtures("root")
def test_best_effort_replaces_nothing_that_can_be_enforced(engine):
    limits = Limits(memory="64m", mode="best-effort")
    if reason := cgroups.discover(os.getpid()).missing().get("memory"):
        pytest.skip(reason)
    assert engine.replaced_limits(limits) == {}
    ended = engine.run("host", ["python3", "-c", "b'x' * (100 << 20)"], limits=limits)
    assert isinstance(ended.verdict, OutOfMemory)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_processors_that_are_not_to_be_had_any_more_are_missed_by_name(monkeypatch):
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    limits = Limits(cpuset_cpus=str(last))
    assert enforcement.stand_ins(limits, ("cpuset-cpus",), "0" * 64).processors == (last,)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {first})
    with pytest.raises(LimitNotEnforceable, match=f"cpuset-cpus {last}: the processors .* {first}"):
        enforcement.stand_ins(limits, ("cpuset-cpus",), "0" * 64)
