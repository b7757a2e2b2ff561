"""Groups of cgroup v2: their files as text, and the kernel's own where a tree can be written."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from cellblock_engine.errors import LimitNotEnforceable
from cellblock_engine.linux import cgroups
from cellblock_engine.linux.cgroups import disks, hierarchy, unified
from cellblock_engine.linux.cgroups.v2 import V2Controllers, V2Group
from support.groups import run_in

MEBIBYTE = 2**20
ALL = "cpuset cpu io memory hugetlb pids"
FILES = {
    "cgroup.controllers": ALL,
    "cgroup.type": "domain",
    "cgroup.procs": "",
    "cgroup.subtree_control": "",
    "cgroup.freeze": "0",
    "cgroup.events": "populated 1\nfrozen 1",
    "memory.max": "max",
    "memory.high": "max",
    "memory.swap.max": "9",
    "memory.current": str(40 * MEBIBYTE),
    "memory.peak": str(50 * MEBIBYTE),
    "memory.stat": f"anon 1\ninactive_file {MEBIBYTE}\nactive_file 7",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 8\noom_kill 7",
    "memory.events.local": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1",
    "cpu.max": "max 100000",
    "cpu.stat": "usage_usec 1500\nuser_usec 1000",
    "cpuset.cpus": "",
    "cpuset.cpus.effective": "0-1",
    "pids.max": "9",
    "pids.current": "3",
    "pids.peak": "5",
    "pids.events": "max 4",
    "cpu.weight": "100",
    "memory.low": "0",
    "io.max": "",
    "io.bfq.weight": "default 100",
}
DISKS = {
    "blkio-weight",
    "device-read-bps",
    "device-write-bps",
    "device-read-iops",
    "device-write-iops",
}


@pytest.fixture(autouse=True)
def _weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever schedules this machine's disks."""
    monkeypatch.setattr(disks, "weighed", lambda: True)


def written(directory: Path, **contents: str) -> Path:
    """Make a directory with the files of a group."""
    directory.mkdir(parents=True)
    for name, text in (FILES | contents).items():
        # Without a new line, and none longer than what is written over it.
        (directory / name).write_text(text)
    return directory


@pytest.fixture(name="directory")
def _directory(tmp_path: Path) -> Path:
    return written(written(tmp_path / "base") / "group")


@pytest.fixture(name="group")
def _group(directory: Path) -> V2Group:
    return V2Group(str(directory))


def settings(directory: Path) -> dict[str, str]:
    names = ("memory.max", "memory.high", "memory.swap.max", "cpu.max", "pids.max", "cgroup.freeze")
    return {name: (directory / name).read_text().strip() for name in names}


def test_limits_are_written_as_the_kernel_takes_them(group, directory) -> None:
    group.limit(cgroups.Limits(64 * MEBIBYTE, 0.5, 32, cpuset_cpus="1"))
    assert settings(directory) == {
        "memory.max": str(64 * MEBIBYTE),
        "memory.high": "max",
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "pids.max": "32",
        "cgroup.freeze": "0",
    }
    assert (directory / "cpuset.cpus").read_text() == "1"


@pytest.mark.parametrize(("both", "swap"), [(-1, "max"), (96 * MEBIBYTE, str(32 * MEBIBYTE))])
def test_swap_is_counted_apart_from_memory(group, directory, both, swap) -> None:
    group.limit(cgroups.Limits(64 * MEBIBYTE, memory_swap_bytes=both))
    assert settings(directory)["memory.swap.max"] == swap


def test_where_swap_is_not_counted_only_a_limit_on_it_is_refused(group, directory) -> None:
    for place in (directory, directory.parent):
        (place / "memory.swap.max").unlink()
    group.limit(cgroups.Limits(64 * MEBIBYTE))
    controllers = V2Controllers(str(directory.parent), {})
    assert controllers.missing() == {
        "memory-swap": "this kernel does not count swap (boot it with swapaccount=1)"
    }
    with pytest.raises(LimitNotEnforceable, match="cannot enforce a limit on memory-swap"):
        controllers.create("other", cgroups.Limits(64 * MEBIBYTE, memory_swap_bytes=-1))
    assert not (directory.parent / "other").exists()


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (256, 25), (1024, 100), (2048, 200), (262144, 10000)]
)
def test_shares_are_weights_and_memory_is_kept_from_others(
    group, directory, shares, weight
) -> None:
    # The kernel's files begin anew with each write.
    for name in ("cpu.weight", "memory.low"):
        (directory / name).write_text("")
    group.limit(cgroups.Limits(cpu_shares=shares, memory_reservation_bytes=32 * MEBIBYTE))
    assert (directory / "cpu.weight").read_text() == str(weight)
    assert (directory / "memory.low").read_text() == str(32 * MEBIBYTE)


def test_disks_are_limited_where_the_kernel_can(group, directory) -> None:
    limits = cgroups.Limits(
        blkio_weight=300, device_read_bps={"8:0": 5}, device_write_iops={"8:0": 6}
    )
    group.limit(limits)
    assert (directory / "io.max").read_text() == "8:0 rbps=5 wiops=6"
    controllers = V2Controllers(str(directory.parent), {})
    assert controllers.refused(limits) is None
    (directory.parent / "io.max").unlink()
    assert "this kernel has no io.max" in controllers.refused(limits)


@pytest.mark.parametrize("cpus", ["0-2", "7", "0,2"])
def test_processors_that_are_not_to_be_had_are_refused(group, directory, cpus) -> None:
    with pytest.raises(LimitNotEnforceable, match=r"processors to be had are 0-1"):
        group.limit(cgroups.Limits(cpuset_cpus=cpus))
    assert (directory / "cpuset.cpus").read_text() == ""


def test_limits_change_all_together_or_not_at_all(group, directory) -> None:
    before = settings(directory)
    (directory / "pids.max").unlink()
    (directory / "pids.max").mkdir()  # which takes nothing
    with pytest.raises(OSError, match="Is a directory"):
        group.update(cgroups.Limits(64 * MEBIBYTE, 0.5, 32))
    (directory / "pids.max").rmdir()
    (directory / "pids.max").write_text("9")
    (directory / "cpu.max").write_text((directory / "cpu.max").read_text()[:10])
    assert settings(directory) == before
    group.update(cgroups.Limits(64 * MEBIBYTE, pids=32))
    assert settings(directory) == before | {
        "memory.max": str(64 * MEBIBYTE),
        "memory.swap.max": "0",
        "pids.max": "32",
    }


def test_memory_in_use_is_not_taken_and_all_goes_on_as_before(group, directory) -> None:
    before = settings(directory)
    (directory / "memory.high").write_text("100000000")
    with pytest.raises(LimitNotEnforceable, match=r"to 16 MiB: 40 MiB are in use"):
        group.update(cgroups.Limits(16 * MEBIBYTE))
    assert settings(directory) == before | {"memory.high": "100000000"}


def test_who_does_not_stand_still_is_left_alone(group, directory) -> None:
    (directory / "cgroup.events").write_text("populated 1\nfrozen 0")
    before = settings(directory)
    with pytest.raises(LimitNotEnforceable, match="does not stand still"):
        group.update(cgroups.Limits(64 * MEBIBYTE))
    assert settings(directory) == before


def test_what_stood_still_before_an_update_does_after_it(group, directory) -> None:
    (directory / "cgroup.freeze").write_text("1")
    group.update(cgroups.Limits(64 * MEBIBYTE))
    assert settings(directory)["cgroup.freeze"] == "1"
    assert settings(directory)["memory.max"] == str(64 * MEBIBYTE)


def test_counters_are_its_own(group, directory) -> None:
    assert group.counters() == cgroups.Counters(
        oom_kills=1,
        memory_failures=2,
        memory_peak_bytes=50 * MEBIBYTE,
        pids_refused=4,
        pids_peak=5,
        cpu_usage_ns=1_500_000,
    )
    assert group.counters().own_oom
    (directory / "memory.events.local").write_text("max 3\noom 0\noom_kill 1")
    assert not group.counters().own_oom  # the limit was that of a group above


def test_usage_is_without_pages_that_nobody_used_lately(group, directory) -> None:
    assert group.usage() == cgroups.Usage(39 * MEBIBYTE, 50 * MEBIBYTE, 1_500_000, 3, 4)
    for number, name in enumerate(("memory", "cpu", "io")):
        line = f"avg10=0.00 avg60=0.00 avg300=1.50 total={number}"
        (directory / f"{name}.pressure").write_text(f"some {line}7\nfull {line}\n")
    assert group.usage()[-3:] == (7, 17, 27)
    for path in directory.iterdir():
        path.unlink()
    assert group.usage() == cgroups.Usage()
    directory.rmdir()
    for read in (group.usage, group.counters):
        with pytest.raises(FileNotFoundError):
            read()


def test_a_group_is_made_below_one_whose_children_then_have_controllers(directory) -> None:
    base = directory.parent
    controllers = V2Controllers(str(base), {"io": "none"})
    made = controllers.create("new", cgroups.Limits())
    assert made.paths == controllers.places("new") == (f"{base}/new",)
    assert (base / "cgroup.subtree_control").read_text() == "+cpu +cpuset +memory +pids"
    assert controllers.shown("new", cgroups.Limits()) == {}
    assert controllers.shown("new", cgroups.Limits(pids=1)) == {".": f"{base}/new"}
    with pytest.raises(FileExistsError):
        controllers.create("new", cgroups.Limits())
    for name in ("", ".", "..", "a/b", "../x"):
        with pytest.raises(ValueError, match="no name of a group"):
            controllers.create(name, cgroups.Limits())
    with pytest.raises(FileNotFoundError):  # a directory of no kernel's has no pids.max
        controllers.create("limited", cgroups.Limits(pids=1))
    assert not (base / "limited").exists()


def controllers_for(top: Path, path: str, own: str | None = None, systemd=None):
    mounts = hierarchy.parse_mounts(f"31 23 0:28 / {top} rw - cgroup2 cgroup2 rw,nsdelegate\n")
    return hierarchy.controllers(mounts, {"": path}, None if own is None else {"": own}, systemd)


def test_groups_go_below_the_nearest_group_without_processes(tmp_path) -> None:
    top = written(tmp_path / "top")
    (top / "cgroup.type").unlink()
    written(written(top / "a", **{"cgroup.procs": "12"}) / "b")
    written(top / "a" / "b" / "c", **{"cgroup.procs": "13"})
    written(top / "a" / "d", **{"cgroup.controllers": ""})

    def place(path: str) -> str:
        (made,) = controllers_for(top, path).places("x")
        return made

    assert place("/a/b/c") == place("/a/b") == f"{top}/a/b/x"
    assert place("/a/d") == place("/a") == place("/") == f"{top}/x"


def test_a_container_whose_own_group_has_processes_is_told_so(tmp_path) -> None:
    top = written(tmp_path / "top", **{"cgroup.procs": "1\n7"})
    said = controllers_for(top, "/").refused(cgroups.Limits(pids=1))
    assert said.startswith("cannot enforce a limit on pids: the groups from ")
    assert "move them into a group below" in said


def test_what_cannot_be_written_to_or_seen_is_named(tmp_path) -> None:
    top = written(tmp_path / "top")
    mounts = hierarchy.parse_mounts(f"31 23 0:28 /in {top} ro,nosuid - cgroup2 cgroup2 rw\n")
    assert hierarchy.controllers(mounts, {"": "/in"}).missing()["pids"] == (
        f"{top} is mounted read-only"
    )
    mounts = hierarchy.parse_mounts(f"31 23 0:28 /in {top} rw,nosuid - cgroup2 cgroup2 rw\n")
    for path in ("/out", "/", "/../x", "/in/gone (deleted)"):
        assert hierarchy.controllers(mounts, {"": path}).missing()["pids"] == (
            f"the group {path} is not visible below {top}"
        )
    missing = controllers_for(written(tmp_path / "few", **{"cgroup.controllers": "cpu"}), "/")
    memory = {"memory", "memory-swap", "memory-reservation"}
    assert set(missing.missing()) == memory | {"pids", "cpuset-cpus"} | DISKS
    assert missing.missing()["pids"] == f"the group {tmp_path}/few has no pids controller"


def test_in_the_scope_of_systemd_groups_are_beside_the_leaf_of_the_spawner(tmp_path) -> None:
    top = written(tmp_path / "top")
    scope = written(top / "system.slice" / "cellblock-1-2.scope")
    leaf = written(scope / "spawner", **{"cgroup.procs": "9"})
    own = f"/{leaf.relative_to(top)}"
    systemd = unified.Manager("/bus", bus_found=True, user=0)
    granted = controllers_for(top, "/user.slice", own, systemd)
    assert granted.places("x") == (f"{scope}/x",)
    for other in ("/system.slice/other.scope/spawner", "/system.slice/cellblock-1-2.scope"):
        assert isinstance(controllers_for(top, "/", other, systemd), cgroups.Delegable)


@pytest.mark.parametrize(
    ("user", "path", "within"),
    [
        (0, "/user.slice/user-0.slice/session-1.scope", "user-0.slice"),
        (0, "/system.slice/system-x.slice/x@1.service/inner.slice", "system-x.slice"),
        (0, "/init.scope", None),
        (7, "/user.slice/user-7.slice/user@7.service/app.slice/x.scope", "app.slice"),
        (7, "/user.slice/user-7.slice/user@7.service/x.service", None),
        (7, "/user.slice/user-7.slice/session-1.scope", None),
        (7, "/system.slice/hub.service", None),
    ],
)
def test_systemd_is_asked_for_a_scope_in_the_slice_of_the_caller(
    tmp_path, user, path, within
) -> None:
    top = written(tmp_path / "top")
    service = "user.slice/user-7.slice/user@7.service"
    written(top / service, **{"cgroup.controllers": "cpu memory pids"})
    found = controllers_for(top, path, None, unified.Manager("/bus", bus_found=True, user=user))
    assert isinstance(found, cgroups.Delegable)
    assert (found.bus, found.slice_name) == ("/bus", within)
    said = "user@7.service has no {} controller (see Delegate= in systemd.resource-control(5))"
    lacks = {"cpuset-cpus": said.format("cpuset"), **dict.fromkeys(DISKS, said.format("io"))}
    assert found.missing() == (lacks if user else {})
    assert found.refused(cgroups.Limits(64 * MEBIBYTE, 1, 5, -1)) is None
    assert found.places("x") == ()
    with pytest.raises(LimitNotEnforceable, match="not been asked"):
        found.create("x", cgroups.Limits(pids=1))
    assert found.create("x", cgroups.Limits()).paths == ()


@pytest.mark.parametrize(("user", "hint"), [(0, "install dbus"), (7, "loginctl enable-linger 7")])
def test_a_systemd_that_is_not_reached_is_named(tmp_path, user, hint) -> None:
    top = written(tmp_path / "top")
    systemd = unified.Manager("/run/bus", bus_found=False, user=user)
    said = controllers_for(top, "/", None, systemd).refused(cgroups.Limits(pids=1))
    assert "there is no /run/bus" in said
    assert hint in said


# The kernel's own: a tree of cgroup v2 that can be written to, whether it has controllers or not.


@pytest.fixture(name="real")
def _real():
    """Make a group below that of this process; see that it goes."""
    own = hierarchy.parse_membership(Path("/proc/self/cgroup").read_text()).get("")
    mounts = hierarchy.parse_mounts(Path("/proc/self/mountinfo").read_text())
    top = next((mount.mount_point for mount in mounts if mount.is_v2), None)
    if own is None or top is None or not os.access(f"{top}{own}", os.W_OK):
        pytest.skip("needs a tree of cgroup v2 to write to")
    path = Path(f"{top}{own}") / f"cellblock-test-{os.getpid()}"
    path.mkdir()
    group = V2Group(str(path))
    yield group
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    group.remove()
    assert not path.exists()


def test_a_process_is_born_into_a_group(real) -> None:
    reader, writer = os.pipe()
    pid = run_in(real, lambda: os.write(writer, Path("/proc/self/cgroup").read_bytes()))
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    assert f"/{Path(real.paths[0]).name}\n" in said


def test_a_frozen_group_stands_and_a_thawed_one_goes_on(real) -> None:
    reader, writer = os.pipe()
    pid = run_in(real, lambda: [os.write(writer, b".") and time.sleep(0.01) for _ in range(20)])
    os.close(writer)
    os.read(reader, 1)
    real.freeze(5.0)
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        os.read(reader, 100)
    time.sleep(0.05)
    with pytest.raises(BlockingIOError):
        os.read(reader, 100)
    real.thaw()
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reader, 100)
    os.close(reader)


@pytest.mark.attack(77)
def test_the_sweep_ends_what_stands_still_in_a_group_whose_owner_was_killed(real) -> None:
    pid = run_in(real, lambda: time.sleep(60))
    real.freeze(5.0)
    assert cgroups.remove_stale(real.paths, "cellblock-test") == real.paths
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    deadline = time.monotonic() + 5
    while cgroups.remove_stale(real.paths, "cellblock-test") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(real.paths[0]).exists()
    assert cgroups.remove_stale(real.paths, "cellblock-test") == ()


def test_removal_waits_for_the_last_process_and_may_be_repeated(real) -> None:
    pid = run_in(real, lambda: time.sleep(0.3))
    with pytest.raises(OSError, match="processes remain"):
        real.remove(timeout_s=0.02)
    os.waitpid(pid, 0)
    real.remove()
    real.remove()
    with pytest.raises(FileNotFoundError):
        real.counters()
