"""Real groups below this process's own, and layouts of other machines as text."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import time
from pathlib import Path

import pytest

from cellblock_engine.errors import LimitNotEnforceable, Unsupported
from cellblock_engine.linux import cgroups
from cellblock_engine.linux.cgroups import disks, hierarchy
from cellblock_engine.linux.cgroups.v1 import V1Controllers
from support.groups import run_in

MEBIBYTE = 2**20
NO_LIMITS = cgroups.Limits()
PREFIX = "cellblock-test"

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / {base}/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / {base}/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / {base}/a\\040b rw,relatime shared:9 master:3 - cgroup cgroup rw,freezer
40 31 0:37 / {base}/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / {base}/unified rw,relatime - cgroup2 cgroup2 rw
"""
WITHOUT_V2 = "31 23 0:28 / {base} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def need(limits):
    controllers = cgroups.discover(os.getpid())
    if not isinstance(controllers, V1Controllers):
        pytest.skip("needs the controllers of cgroup v1")
    if reason := controllers.refused(limits):
        pytest.skip(f"needs cgroup v1 controllers to write to: {reason}")
    return controllers


@pytest.fixture(name="make")
def _make():
    """Make groups; remove them and check that they are gone."""
    groups = []

    def make(limits=NO_LIMITS, name="a"):
        group = need(limits).create(f"{PREFIX}-{os.getpid()}-{name}", limits)
        groups.append(group)
        return group

    yield make
    for group in groups:
        group.remove()
        assert not [path for path in group.paths if Path(path).exists()]


def finish(pid):
    return os.waitpid(pid, 0)[1]


def test_a_group_is_made_below_the_groups_of_the_process(make):
    group = make()
    own = hierarchy.parse_membership(Path("/proc/self/cgroup").read_text())
    (memory,) = [path for path in group.paths if "memory" in path] or pytest.skip("no memory group")
    assert memory.endswith(f"{own['memory'].rstrip('/')}/{PREFIX}-{os.getpid()}-a")


def written(group):
    where = {file for path in group.paths for file in Path(path).iterdir()}
    return {
        path.name: path.read_text().strip()
        for path in where
        if path.name
        in {
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.swappiness",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "pids.max",
        }
    }


def test_limits_are_what_the_kernel_now_says(make):
    values = written(make(cgroups.Limits(64 * MEBIBYTE, 0.5, 32)))
    with_swap = int(values.pop("memory.memsw.limit_in_bytes", 64 * MEBIBYTE))
    assert 64 * MEBIBYTE <= with_swap <= 65 * MEBIBYTE
    assert values == {
        "memory.limit_in_bytes": str(64 * MEBIBYTE),
        "memory.swappiness": "0",
        "cpu.cfs_quota_us": "50000",
        "cpu.cfs_period_us": "100000",
        "pids.max": "32",
    }


@pytest.mark.parametrize("swap", [None, -1, 256 * MEBIBYTE])
@pytest.mark.parametrize("memory", [16 * MEBIBYTE, 128 * MEBIBYTE])
def test_changed_limits_are_those_of_a_group_made_with_them(make, memory, swap):
    wanted = cgroups.Limits(memory, 0.25, 48, swap)
    need(wanted)
    group = make(cgroups.Limits(64 * MEBIBYTE, 0.5, 32))
    group.update(wanted)
    assert written(group) == written(make(wanted, "b"))
    unlimited = make(name="c")
    unlimited.update(wanted)
    assert written(unlimited) == written(group)
    group.update(cgroups.Limits(64 * MEBIBYTE, 0.5, 32))
    assert written(group) == written(make(cgroups.Limits(64 * MEBIBYTE, 0.5, 32), "d"))


@pytest.mark.parametrize("memory", [16 * MEBIBYTE, 128 * MEBIBYTE])
def test_limits_change_all_together_or_not_at_all(make, memory):
    group = make(cgroups.Limits(64 * MEBIBYTE, 0.5, 32))
    before = written(group)
    with pytest.raises(LimitNotEnforceable, match=r"the kernel refused 99999999 for .*pids\.max"):
        group.update(cgroups.Limits(memory, 0.25, 99999999))
    assert written(group) == before


def holding(group, bytes_):
    """Run a process that holds memory in the group; return its pid once it does."""
    reader, writer = os.pipe()

    def work():
        page = mmap.mmap(-1, bytes_)
        for offset in range(0, len(page), 4096):
            page[offset] = 1
        os.write(writer, b".")
        time.sleep(30)

    pid = run_in(group, work)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    return pid


def test_memory_in_use_is_not_taken_and_nobody_is_killed_for_it(make):
    group = make(cgroups.Limits(64 * MEBIBYTE, pids=32))
    pid = holding(group, 40 * MEBIBYTE)
    before, used = written(group), group.usage()
    assert 40 * MEBIBYTE <= used.memory_bytes <= used.memory_peak_bytes <= 48 * MEBIBYTE
    assert used.pids == 1
    assert used.cpu_usage_ns > 0
    said = r"cannot limit memory to 16 MiB: 4\d(\.\d+)? MiB are in use"
    with pytest.raises(LimitNotEnforceable, match=said):
        group.update(cgroups.Limits(16 * MEBIBYTE, pids=48))
    assert written(group) == before
    group.update(cgroups.Limits(48 * MEBIBYTE))
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    assert group.counters().oom_kills == 0
    os.kill(pid, signal.SIGKILL)
    finish(pid)


@pytest.mark.attack(22)
def test_code_that_fills_memory_as_fast_as_it_is_taken_back_holds_nobody_up(make, tmp_path):
    group = make(cgroups.Limits(64 * MEBIBYTE))
    chunk = bytes(MEBIBYTE)

    def work():
        while True:
            with (tmp_path / "file").open("wb") as stream:
                for _ in range(256):
                    stream.write(chunk)

    pids = [run_in(group, work) for _ in range(3)]
    time.sleep(0.5)
    begun, before = time.monotonic(), written(group)
    try:
        group.update(cgroups.Limits(8 * MEBIBYTE))
    except LimitNotEnforceable:
        assert written(group) == before
    assert time.monotonic() - begun < 4
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        finish(pid)


@pytest.mark.attack(22)
def test_out_of_memory_is_counted_as_its_own(make):
    group = make(cgroups.Limits(memory_bytes=16 * MEBIBYTE))

    def work():
        page = mmap.mmap(-1, 64 * MEBIBYTE)
        for offset in range(0, len(page), 4096):
            page[offset] = 1

    status = finish(run_in(group, work))
    counters = group.counters()
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert counters.oom_kills == 1
    assert counters.memory_failures > 0
    assert counters.own_oom
    assert 15 * MEBIBYTE < counters.memory_peak_bytes <= 16 * MEBIBYTE


def test_reaching_the_limit_without_a_kill_is_no_oom(make, tmp_path):
    group = make(cgroups.Limits(memory_bytes=16 * MEBIBYTE))

    def work():
        with (tmp_path / "file").open("wb") as stream:
            for _ in range(48):
                stream.write(bytes(MEBIBYTE))

    status = finish(run_in(group, work))
    assert status == 0
    assert group.counters().oom_kills == 0
    assert not group.counters().own_oom


@pytest.mark.attack(22)
def test_the_memory_of_a_group_above_is_not_its_own(make):
    parent = make(cgroups.Limits(memory_bytes=16 * MEBIBYTE), "parent")
    (memory,) = [path for path in parent.paths if (Path(path) / "memory.failcnt").exists()]
    inner = V1Controllers({"memory": memory}, {}).create(
        f"{PREFIX}-inner", cgroups.Limits(memory_bytes=256 * MEBIBYTE)
    )
    try:

        def work():
            page = mmap.mmap(-1, 64 * MEBIBYTE)
            for offset in range(0, len(page), 4096):
                page[offset] = 1

        status = finish(run_in(inner, work))
        counters = inner.counters()
    finally:
        inner.remove()
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert counters.oom_kills == 1
    assert not counters.own_oom


def test_forks_beyond_the_pids_limit_are_counted(make):
    group = make(cgroups.Limits(pids=3))
    reader, writer = os.pipe()

    def work():
        started = refused = 0
        for _ in range(5):
            try:
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
                started += 1
            except BlockingIOError:
                refused += 1
        os.write(writer, json.dumps([started, refused]).encode())
        time.sleep(30)

    pid = run_in(group, work)
    os.close(writer)
    assert json.loads(os.read(reader, 100)) == [2, 3]
    os.close(reader)
    assert group.counters().pids_refused == 3
    (directory,) = [path for path in group.paths if (Path(path) / "pids.max").exists()]
    for task in (Path(directory) / "tasks").read_text().split():
        os.kill(int(task), signal.SIGKILL)
    finish(pid)


def test_cpu_time_is_counted_and_limited(make):
    group = make(cgroups.Limits(cpus=0.1))

    def work():
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            pass

    finish(run_in(group, work))
    used_ns = group.counters().cpu_usage_ns
    assert 1e6 < used_ns < 0.25e9  # half a second at a tenth, with a period of slack


def test_a_frozen_group_stands_and_a_thawed_one_goes_on(make):
    group = make()
    if not any((Path(path) / "freezer.state").exists() for path in group.paths):
        pytest.skip("needs the freezer controller of cgroup v1")
    reader, writer = os.pipe()
    pid = run_in(group, lambda: [os.write(writer, b".") and time.sleep(0.01) for _ in range(20)])
    os.read(reader, 1)
    group.freeze(2.0)
    os.set_blocking(reader, False)
    time.sleep(0.05)
    with contextlib.suppress(BlockingIOError):
        os.read(reader, 100)
    time.sleep(0.05)
    with pytest.raises(BlockingIOError):
        os.read(reader, 100)
    group.thaw()
    assert finish(pid) == 0
    assert os.read(reader, 100)
    os.close(reader)
    os.close(writer)


def test_removal_waits_for_the_last_process_and_may_be_repeated(make):
    group = make()
    pid = run_in(group, lambda: time.sleep(0.2))
    time.sleep(0.05)
    with pytest.raises(OSError, match="processes remain"):
        group.remove(timeout_s=0.02)
    finish(pid)
    group.remove()
    group.remove()
    with pytest.raises(FileNotFoundError):
        group.counters()


def test_nothing_stays_when_a_name_is_taken_or_a_limit_is_not_taken(make):
    group = make()
    name = Path(group.paths[0]).name
    controllers = need(cgroups.Limits(pids=1))
    with pytest.raises(FileExistsError):
        controllers.create(name, cgroups.Limits())
    assert all(Path(path).exists() for path in group.paths)
    with pytest.raises(LimitNotEnforceable, match=r"the kernel refused 99999999 for .*pids\.max"):
        controllers.create(f"{PREFIX}-{os.getpid()}-b", cgroups.Limits(pids=99999999))
    left = [p for path in group.paths for p in Path(path).parent.glob(f"{PREFIX}-{os.getpid()}-b")]
    assert left == []


def test_a_quota_above_that_of_the_group_above_is_refused_in_one_line(make):
    parent = make(cgroups.Limits(cpus=0.5))
    (cpu,) = [path for path in parent.paths if (Path(path) / "cpu.cfs_quota_us").exists()]
    with pytest.raises(LimitNotEnforceable, match="a group above it may allow less"):
        V1Controllers({"cpu": cpu}, {}).create("inner", cgroups.Limits(cpus=1))
    assert not (Path(cpu) / "inner").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x"])
def test_names_that_are_paths_are_refused(name):
    with pytest.raises(ValueError, match="no name of a group"):
        V1Controllers({"cpu": "/nonexistent"}, {}).create(name, cgroups.Limits())


@pytest.mark.attack(74)
def test_the_sweep_removes_what_was_recorded_and_nothing_else(make):
    group = make()
    pid = run_in(group, lambda: time.sleep(1))
    time.sleep(0.05)
    assert cgroups.remove_stale(group.paths, PREFIX) == group.paths
    finish(pid)
    gone = (*group.paths, f"/sys/fs/cgroup/none/{PREFIX}-gone")
    deadline = time.monotonic() + 5
    while cgroups.remove_stale(gone, PREFIX):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not any(Path(path).exists() for path in group.paths)
    above = Path(group.paths[0]).parent
    assert cgroups.remove_stale([str(above)], PREFIX) == ()
    assert above.exists()


@pytest.mark.attack(74)
@pytest.mark.parametrize("way", ["{}", "/sys/fs/cgroup/..{}"])
def test_a_forged_record_has_no_file_written(tmp_path, way):
    canary = tmp_path / "canary"
    canary.write_text("as it was")
    forged = tmp_path / f"{PREFIX}-forged"
    forged.mkdir()
    for name in ("cgroup.kill", "cgroup.freeze", "freezer.state"):
        (forged / name).symlink_to(canary)
    linked = tmp_path / f"{PREFIX}-linked"
    linked.symlink_to(forged)
    recorded = [way.format(path) for path in (forged, linked)]
    for _ in range(2):
        assert cgroups.remove_stale(recorded, PREFIX) == ()
    assert canary.read_text() == "as it was"


def tree(tmp_path, *paths):
    for path in paths:
        (tmp_path / path).mkdir(parents=True)
    return str(tmp_path)


def test_a_hybrid_layout_gives_the_v1_controllers_and_leaves_v2_alone(tmp_path):
    base = tree(tmp_path, "cpu,cpuacct/me", "memory/a/b", "a b", "unified", "systemd")
    controllers = hierarchy.controllers(
        hierarchy.parse_mounts(HYBRID.format(base=base)),
        hierarchy.parse_membership(
            "5:cpu,cpuacct:/me\n4:memory:/a/b\n3:freezer:/\n2:name=systemd:/\n0::/x\n"
        ),
    )
    assert controllers.missing() == {
        "pids": "the pids controller of cgroup v1 is not mounted",
        "cpuset-cpus": "the cpuset controller of cgroup v1 is not mounted",
        "memory-swap": "this kernel does not count swap (boot it with swapaccount=1)",
        "memory-reservation": "this kernel has no memory.soft_limit_in_bytes",
        **dict.fromkeys(
            (
                "blkio-weight",
                "device-read-bps",
                "device-write-bps",
                "device-read-iops",
                "device-write-iops",
            ),
            "the blkio controller of cgroup v1 is not mounted",
        ),
    }
    group = controllers.create("g", cgroups.Limits())
    assert group.paths == (
        f"{base}/cpu,cpuacct/me/g",
        f"{base}/a b/g",
        f"{base}/memory/a/b/g",
    )
    assert list((tmp_path / "unified").iterdir()) == []
    refused = controllers.refused(cgroups.Limits(MEBIBYTE, 1, 5))
    assert refused == (
        "cannot enforce a limit on pids: the pids controller of cgroup v1 is not mounted; "
        "leave the limit out to run without"
    )
    with pytest.raises(LimitNotEnforceable, match="pids controller"):
        controllers.create("h", cgroups.Limits(pids=5))
    assert not (tmp_path / "a b" / "h").exists()


def test_disks_are_limited_in_the_words_of_each_version():
    limits = cgroups.Limits(
        blkio_weight=300,
        device_read_bps={"8:0": 1024, "8:16": 2048},
        device_write_iops={"8:0": 9},
    )
    assert list(disks.v1_settings(limits)) == [
        ("blkio.throttle.read_bps_device", "8:0 1024"),
        ("blkio.throttle.read_bps_device", "8:16 2048"),
        ("blkio.throttle.write_iops_device", "8:0 9"),
        ("blkio.bfq.weight", "300"),
    ]
    assert list(disks.v2_settings(limits)) == [
        ("io.max", "8:0 rbps=1024 wiops=9"),
        ("io.max", "8:16 rbps=2048"),
        ("io.bfq.weight", "300"),
    ]


@pytest.mark.parametrize("bfq", [True, False])
def test_weights_are_for_disks_that_follow_them(monkeypatch, tmp_path, bfq):
    directory = tmp_path / "blkio"
    directory.mkdir()
    (directory / "blkio.bfq.io_serviced").touch()
    monkeypatch.setattr(disks, "weighed", lambda: bfq)
    refused = V1Controllers({"blkio": str(directory)}, {}).refused(cgroups.Limits(blkio_weight=9))
    assert (refused is None) == bfq
    assert bfq or "on blkio-weight: no disk of this machine is scheduled by BFQ" in refused


def test_groups_inside_a_cgroup_namespace_or_a_bind_are_found_or_named(tmp_path):
    base = tree(tmp_path, "memory/inner")
    mounts = hierarchy.parse_mounts(
        f"35 31 0:32 /docker/1 {base}/memory rw - cgroup cgroup rw,memory\n"
    )
    inside = hierarchy.controllers(mounts, {"memory": "/docker/1/inner"})
    assert inside.create("g", cgroups.Limits()).paths == (f"{base}/memory/inner/g",)
    for outside in ("/docker/2", "/docker/11", "/", "/../x", "/docker/1/gone (deleted)"):
        missing = hierarchy.controllers(mounts, {"memory": outside}).missing()
        assert missing["memory"] == (
            f"the memory group {outside} is not visible below {base}/memory"
        )
    removed = hierarchy.controllers(mounts, {"memory": "/docker/1/none"}).missing()
    assert removed["memory"] == "the memory group /docker/1/none has been removed"


def test_a_read_only_hierarchy_is_named(tmp_path):
    base = tree(tmp_path, "pids")
    mounts = hierarchy.parse_mounts(f"35 31 0:32 / {base}/pids ro,nosuid - cgroup cgroup rw,pids\n")
    missing = hierarchy.controllers(mounts, {"pids": "/"}).missing()
    assert missing["pids"] == f"{base}/pids is mounted read-only"


def test_an_ordinary_user_is_refused_by_name(tmp_path):
    base = tree(tmp_path, "memory")
    tmp_path.chmod(0o755)
    mounts = hierarchy.parse_mounts(f"35 31 0:32 / {base}/memory rw - cgroup cgroup rw,memory\n")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            Path(base, "memory").chmod(0o555)
            if os.geteuid() == 0:
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            missing = hierarchy.controllers(mounts, {"memory": "/"}).missing()
            os.write(writer, missing.get("memory", "").encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    # Where the directories above are private, the group looks as if it were not there.
    assert said.startswith(("user ", "the memory group / has been removed"))


@pytest.mark.parametrize(
    ("mountinfo", "reason"),
    [(WITHOUT_V2, "cgroup v2 has no controllers"), ("", "no cgroup controllers are mounted")],
)
def test_without_controllers_every_limit_is_refused_by_name_and_a_run_without_goes_on(
    mountinfo, reason, tmp_path
):
    mounts = hierarchy.parse_mounts(mountinfo.format(base=tmp_path))
    controllers = hierarchy.controllers(mounts, {"": "/user.slice"})
    for limits in (
        cgroups.Limits(memory_bytes=MEBIBYTE),
        cgroups.Limits(cpus=1),
        cgroups.Limits(pids=1),
        cgroups.Limits(memory_swap_bytes=-1),
        cgroups.Limits(cpuset_cpus="0"),
    ):
        (name,) = limits.named()
        assert controllers.refused(limits).startswith(f"cannot enforce a limit on {name}: {reason}")
        with pytest.raises(LimitNotEnforceable, match=reason):
            controllers.create("g", limits)
    both = controllers.refused(cgroups.Limits(memory_bytes=MEBIBYTE, pids=1))
    assert "on memory and pids: " in both
    assert "\n" not in both
    group = controllers.create("g", cgroups.Limits())
    assert (group.paths, group.entrance().fds) == ((), ())
    assert not group.counters().own_oom
    assert group.usage() == cgroups.Usage()
    with pytest.raises(LimitNotEnforceable, match=reason):
        group.update(cgroups.Limits(pids=1))
    with pytest.raises(Unsupported, match=reason):
        group.freeze(1)
    group.remove()


@pytest.mark.parametrize(
    "text",
    ["x", " - ", "1 2 3 - cgroup cgroup rw,memory", "1 2 3 4 5\\9 6 - cgroup2 a b", "a - cgroup"],
)
def test_lines_that_are_no_cgroup_mounts_are_skipped(text):
    hierarchy.parse_mounts(text)


def test_odd_membership_lines_do_not_confuse():
    assert hierarchy.parse_membership("5:memory:/a:b\nx\n0::/\n7:cpu,cpuacct:/\n") == {
        "memory": "/a:b",
        "": "/",
        "cpu": "/",
        "cpuacct": "/",
    }


def test_a_process_that_is_gone_is_an_error():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(FileNotFoundError):
        cgroups.discover(pid)
