"""What programs inside are told of their container's limits, where they look for them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cellblock_engine import Engine, Limits, Removal, RunRequest, Tmpfs
from cellblock_engine.linux import cgroups
from cellblock_engine.linux.cgroups import hierarchy
from support import capabilities
from support.ordinary import OrdinaryUser

LOOK = """
import json, os
def text(path):
    try:
        return open(path).read()
    except OSError as error:
        return error.strerror
def either(name, unified):
    said = text("/sys/fs/cgroup/" + name)
    return said if said[:1].isdigit() else text("/sys/fs/cgroup/" + unified)
lines = text("/proc/meminfo").splitlines()
meminfo = {line.split(":")[0]: line.split(":")[1].split()[0] for line in lines}
print(json.dumps({
    "total": int(meminfo["MemTotal"]),
    "available": int(meminfo["MemAvailable"]),
    "swap": int(meminfo["SwapTotal"]),
    "count": os.cpu_count(),
    "online": text("/sys/devices/system/cpu/online"),
    "environment": os.environ.get("PYTHON_CPU_COUNT"),
    "memory": either("memory/memory.limit_in_bytes", "memory.max"),
    "used": either("memory/memory.usage_in_bytes", "memory.current"),
    "quota": either("cpu/cpu.cfs_quota_us", "cpu.max"),
    "time": either("cpuacct/cpuacct.usage", "cpu.stat"),
    "pids": either("pids/pids.max", "pids.max"),
    "group": sorted(os.listdir("/sys/fs/cgroup")) if os.path.exists("/sys/fs") else None,
    "mounts": [line.split()[4:6] for line in open("/proc/self/mountinfo")],
}))
"""
NO_FILE = "No such file or directory"
TOLD = ("/proc/meminfo", "/sys/devices/system/cpu/online", "/sys/fs/cgroup")

IS_V2 = "v2" in cgroups.discover(os.getpid()).version


def hierarchies(*names: str) -> list[str]:
    """Return what is shown of these controllers of v1: v2 has but one hierarchy."""
    return ["."] if IS_V2 else list(names)


def told_by(seen: dict) -> list[str]:
    return ["."] if "cgroup.procs" in seen["group"] else seen["group"]


def quota(microseconds: int) -> str:
    return f"{microseconds} 100000\n" if IS_V2 else f"{microseconds}\n"


def need(limits: Limits) -> None:
    wanted = cgroups.Limits(limits.memory_bytes, limits.cpus, limits.pids)
    if reason := cgroups.discover(os.getpid()).refused(wanted):
        pytest.skip(reason)


def look(engine: Engine, image: str, **words) -> dict:
    done = engine.run(image, ["python3", "-c", LOOK], **words)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(params=["host", "debian"])
def image(request: pytest.FixtureRequest, base_image: str) -> str:
    return "host" if request.param == "host" else base_image


def test_limits_are_told_where_programs_look(base_engine: Engine, image: str) -> None:
    limits = Limits(memory="64m", cpus=0.5, pids=50)
    need(limits)
    seen = look(base_engine, image, limits=limits)
    assert (seen["total"], seen["available"], seen["swap"]) == (65536, 65536, 0)
    assert (seen["count"], seen["online"], seen["environment"]) == (1, "0\n", "1")
    assert (seen["memory"], seen["quota"], seen["pids"]) == (f"{64 << 20}\n", quota(50000), "50\n")
    assert 0 < int(seen["used"]) < 64 << 20
    assert int(seen["time"].removeprefix("usage_usec").split()[0]) > 0
    assert told_by(seen) == hierarchies("cpu", "cpuacct", "memory", "pids")
    modes = dict(seen["mounts"])
    below = () if IS_V2 else seen["group"]
    places = [*TOLD, *(f"/sys/fs/cgroup/{name}" for name in below)]
    for place in places:
        assert modes[place].split(",")[:4] == ["ro", "nosuid", "nodev", "noexec"], place


def test_without_limits_all_is_the_machines(base_engine: Engine, image: str) -> None:
    seen = look(base_engine, image)
    machine = Path("/proc/meminfo").read_text().split()[1]
    assert (str(seen["total"]), seen["count"]) == (machine, os.cpu_count())
    assert (seen["environment"], seen["memory"], seen["group"]) == (None, NO_FILE, [])
    assert not set(TOLD) & set(dict(seen["mounts"]))


def test_each_limit_tells_its_own(base_engine: Engine, image: str) -> None:
    need(Limits(memory="64m", cpus=1))
    memory = look(base_engine, image, limits=Limits(memory="64m"))
    assert (memory["total"], memory["count"]) == (65536, os.cpu_count())
    assert (told_by(memory), memory["environment"]) == (hierarchies("memory"), None)
    count = os.cpu_count() or 1
    cpus = look(base_engine, image, limits=Limits(cpus=count - 0.5), env={"PYTHON_CPU_COUNT": "7"})
    assert cpus["total"] > 65536
    assert cpus["count"] == math.ceil(count - 0.5)
    assert (told_by(cpus), cpus["environment"]) == (hierarchies("cpu", "cpuacct"), "7")
    last = str(max(os.sched_getaffinity(0)))
    if reason := cgroups.discover(os.getpid()).missing().get("cpuset-cpus"):
        pytest.skip(reason)
    one = look(base_engine, image, limits=Limits(cpuset_cpus=last))
    assert (one["count"], one["online"], told_by(one)) == (1, f"{last}\n", hierarchies("cpuset"))


def test_on_the_hosts_network_there_is_no_sys_to_tell_it_in(
    base_engine: Engine, image: str
) -> None:
    limits = Limits(memory="64m", cpus=0.5)
    need(limits)
    seen = look(base_engine, image, limits=limits, network="host")
    assert (seen["total"], seen["environment"]) == (65536, "1")
    assert (seen["count"], seen["online"], seen["group"]) == (os.cpu_count(), NO_FILE, None)


@pytest.mark.attack(3)
def test_what_tells_the_limits_cannot_be_written_or_taken_away(
    base_engine: Engine, image: str
) -> None:
    limits = Limits(memory="64m", cpus=0.5, pids=50)
    need(limits)
    program = """
import glob, os
files = ["/proc/meminfo", "/sys/devices/system/cpu/online"]
for folder, _, names in os.walk("/sys/fs/cgroup"):
    files += [os.path.join(folder, name) for name in names]
def tried(what, *words):
    try:
        what(*words)
    except OSError:
        return
    print("could", what.__name__, *words)
assert len(files) > 40
for file in files:
    tried(os.open, file, os.O_WRONLY)
    tried(os.open, file, os.O_RDWR | os.O_TRUNC)
    tried(os.unlink, file)
    tried(os.chmod, file, 0o666)
    tried(os.rename, file, file + "x")
for name in os.listdir("/sys/fs/cgroup"):
    tried(os.mkdir, f"/sys/fs/cgroup/{name}/mine")
    tried(os.rmdir, f"/sys/fs/cgroup/{name}")
tried(os.mkdir, "/sys/fs/cgroup/mine")
print("outside:", glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True),
      [line for line in open("/proc/self/mountinfo")
       if " - cgroup" in line and line.split()[3] != "/"])
"""
    done = base_engine.run(image, ["python3", "-c", program], limits=limits, user="0")
    assert (done.stdout, done.stderr) == (b"outside: [] []\n", b"")


def test_changed_limits_are_told_at_once(base_engine: Engine, image: str) -> None:
    need(Limits(memory="64m", cpus=0.5))
    count = os.cpu_count() or 1
    limits = Limits(memory="64m", cpus=0.5, memory_swap="64m")
    request = RunRequest(image=image, argv=("sleep", "100"), limits=limits)
    container = base_engine.start(request)
    container.update(Limits(memory="1g", cpus=count, memory_swap="1g"))
    seen = json.loads(container.exec(["python3", "-c", LOOK]).stdout)
    assert (seen["total"], seen["memory"]) == (1 << 20, f"{1 << 30}\n")
    assert (seen["count"], seen["quota"]) == (count, quota(count * 100000))
    assert seen["environment"] == str(count)
    meminfo = container.exec(["cat", "/proc/meminfo"]).stdout.decode().splitlines()
    assert len(meminfo) == len(Path("/proc/meminfo").read_text().splitlines())
    container.update(Limits(memory="32m", cpus=0.5, memory_swap="32m"))
    container.stop(grace_s=0)
    base_engine.start(container.name)
    seen = json.loads(container.exec(["python3", "-c", LOOK]).stdout)
    assert (seen["total"], seen["count"], seen["environment"]) == (32768, 1, "1")


def test_other_users_of_a_sealed_container_are_told_too(base_engine: Engine, image: str) -> None:
    limits = Limits(memory="64m", cpus=0.5)
    need(limits)
    request = RunRequest(
        image=image,
        argv=("python3", "-c", LOOK),
        user="65534:65534",
        workdir="/",
        read_only=True,
        limits=limits,
        removal=Removal.AT_END,
    )
    with base_engine.spawn(request) as attached:
        stdout, stderr, _ = attached.communicate(None, most_bytes=1 << 16)
    assert not stderr
    seen = json.loads(stdout)
    assert (seen["total"], seen["count"], seen["memory"]) == (65536, 1, f"{64 << 20}\n")


def test_the_command_line_tells_and_changes_limits(cellblock, base_image: str) -> None:
    need(Limits(memory="64m", cpus=0.5))
    name = f"told-{os.getpid()}"
    cellblock("run", "-d", "--name", name, "-m", "64m", "--cpus", "1", base_image, "sleep", "100")
    try:
        done = cellblock("update", "-m", "96m", "--cpus", "0.5", name, "nosuch")
        assert (done.returncode, done.stdout) == (125, f"{name}\n")
        assert "no container 'nosuch'" in done.stderr
        (row,) = json.loads(cellblock("stats", "--json", name).stdout)
        assert (row["memory_limit_bytes"], row["cpus_limit"]) == (96 << 20, 0.5)
        assert 0 < row["memory_bytes"] <= row["memory_peak_bytes"]
        assert (row["pids"], 0 <= row["cpus"] < 0.5) == (1, True)
        titles, *lines = cellblock("stats").stdout.splitlines()
        assert titles.split()[:2] == ["CONTAINER", "ID"]
        assert [line for line in lines if f" {name} " in line and " / 96 MiB " in line]
        assert cellblock("exec", name, "cat", "/proc/meminfo").stdout.split()[1] == "98304"
        done = cellblock("update", name)
        assert (done.returncode, "nothing to change" in done.stderr) == (125, True)
    finally:
        cellblock("rm", "-f", name)
    done = cellblock("stats", name)
    assert (done.returncode, done.stdout) == (125, "")
    assert len(done.stderr.splitlines()) == 1


def test_libraries_see_it(base_engine: Engine) -> None:
    limits = Limits(memory="256m", cpus=0.5)
    need(limits)
    program = """
import multiprocessing, psutil, shutil
memory = psutil.virtual_memory()
print(multiprocessing.cpu_count(), psutil.cpu_count(), memory.total >> 20, memory.available >> 20)
print(psutil.swap_memory().total, memory.percent)
"""
    done = base_engine.run("host", [sys.executable, "-c", program], limits=limits)
    assert done.stdout == b"1 1 256 256\n0 0.0\n", done.stderr


def test_the_sizes_of_file_systems_are_their_limits(base_engine: Engine, image: str) -> None:
    capabilities.need_attributes_in_memory()
    program = (
        "import shutil; open('/here', 'wb').write(bytes(4 << 20)); "
        "print(*(f'{shutil.disk_usage(place).total} {shutil.disk_usage(place).free}' "
        "for place in ('/', '/usr', '/dev/shm', '/t')))"
    )
    request = RunRequest(
        image=image,
        argv=("python3", "-c", program),
        removal=Removal.AT_END,
        storage_bytes=32 << 20,
        shm_bytes=8 << 20,
        tmpfs=(Tmpfs("/t", 2 << 20),),
    )
    with base_engine.spawn(request) as attached:
        stdout, stderr, _ = attached.communicate(None, most_bytes=1000)
    root, free, usr, _, shm, shm_free, t, t_free = (int(word) >> 20 for word in stdout.split())
    assert (root, usr, shm, shm_free, t, t_free) == (32, 32, 8, 8, 2, 2), stderr
    assert free in (27, 28)


def test_the_plan_names_it(base_engine: Engine) -> None:
    limits = Limits(memory="64m", cpus=0.5)
    need(limits)
    mounts = base_engine.explain(RunRequest(argv=("true",), limits=limits)).sections["mounts"]
    assert "limits told in /proc/meminfo /sys/devices/system/cpu/online (ro)" in mounts
    shown = " ".join(hierarchies("cpu", "cpuacct", "memory"))
    assert f"control groups ({shown}) on /sys/fs/cgroup (ro)" in mounts
    mounts = base_engine.explain(RunRequest(argv=("true",))).sections["mounts"]
    assert not [line for line in mounts if "told" in line or "control groups" in line]


@pytest.fixture
def delegated(ordinary_user: OrdinaryUser) -> Iterator[None]:
    """Let what this process starts have groups that the ordinary user may make groups in."""
    limits = cgroups.Limits(memory_bytes=1, cpus=1, pids=1)
    if reason := cgroups.discover(os.getpid()).refused(limits):
        pytest.skip(reason)
    if IS_V2:
        pytest.skip("needs the controllers of cgroup v1")
    mounts = hierarchy.parse_mounts(Path("/proc/self/mountinfo").read_text())
    membership = hierarchy.parse_membership(Path("/proc/self/cgroup").read_text())
    with ExitStack() as stack:
        for controller in ("memory", "cpu", "cpuacct", "pids"):
            own = Path(hierarchy._place(controller, mounts, membership))
            group = own / f"cellblock-test-{os.getpid()}"
            if group.exists():
                continue  # joined with another
            group.mkdir()
            stack.callback(remove_empty, group)
            os.chown(group, ordinary_user.uid, -1)
            (group / "tasks").write_text(str(os.getpid()))
            stack.callback((own / "tasks").write_text, str(os.getpid()))
        yield


def remove_empty(group: Path) -> None:
    done = subprocess.run(
        ["timeout", "20", "sh", "-c", f"until rmdir {group}; do sleep 0.1; done"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


ORDINARY = """
import json, sys
from cellblock_engine import Engine, Limits, RunRequest, errors
limits = Limits(memory="64m", cpus=0.5, pids=50)
with Engine.open() as engine:
    container = engine.start(RunRequest(argv=("sleep", "100"), limits=limits))
    try:
        stats = container.stats()
        container.update(Limits(memory="96m"))
        done = container.exec([sys.executable, "-c", {program!r}])
        print(json.dumps([stats.memory_limit_bytes, stats.pids, done.stdout.decode()]))
        print(done.stderr.decode(), file=sys.stderr)
    finally:
        container.remove(force=True)
"""
UNLIMITED = """
from cellblock_engine import Engine, RunRequest
with Engine.open() as engine:
    container = engine.start(RunRequest(argv=("sleep", "100")))
    stats = container.stats()
    print(stats.memory_bytes, stats.cpu_seconds, stats.pids, stats.pids_limit)
    container.remove(force=True)
"""


@pytest.mark.usefixtures("root", "delegated")
def test_an_ordinary_user_with_groups_of_its_own(ordinary_user: OrdinaryUser) -> None:
    done = ordinary_user.run_python(ORDINARY.format(program=LOOK))
    assert done.returncode == 0, done.stderr
    limit, pids, said = json.loads(done.stdout)
    assert (limit, pids) == (64 << 20, 1)
    seen = json.loads(said)
    assert (seen["total"], seen["memory"]) == (98304, f"{96 << 20}\n")
    assert (seen["count"], seen["quota"], seen["pids"]) == (1, quota(50000), "50\n")


@pytest.mark.usefixtures("root")
def test_an_ordinary_user_without_groups_is_told_nothing_made_up(
    ordinary_user: OrdinaryUser,
) -> None:
    done = ordinary_user.run_python(UNLIMITED)
    assert done.stdout == "None None None None\n", done.stderr
