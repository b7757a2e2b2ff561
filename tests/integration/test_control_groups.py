"""Limits by control groups of version 2: of systemd where that gives them, else of one's own."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
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
    """Return the groups of containers, and what systemd gave for them, of everybody."""
    places = os.walk("/sys/fs/cgroup")  # which passes over what goes meanwhile
    return {
        Path(folder) / name
        for folder, names, _ in places
        for name in names
        if name.startswith("cellblock-")
    }


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
def test_a_container_stands_still_and_goes_on(engine: Engine) -> None:
    container = started(engine, COUNT)
    try:
        with container.standing_still():
            assert "frozen 1" in read(container, "cgroup.events").splitlines()
            time.sleep(0.3)  # what it had said before is in the log
            said = len(list(container.logs()))
            time.sleep(0.5)
            assert len(list(container.logs())) == said
        assert read(container, "cgroup.freeze") == "0"
        deadline = time.monotonic() + 20
        while len(list(container.logs())) == said and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(list(container.logs())) > said
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


REPORT = """
import json, sys
from pathlib import Path
from cellblock_engine import Engine, Limits, LimitNotEnforceable, RunRequest
with Engine.open(Path(sys.argv[1])) as engine:
    try:
        done = engine.run("host", ["cat", "/sys/fs/cgroup/memory.max"], limits=Limits(memory="64m"))
        said = done.stdout.decode()
    except LimitNotEnforceable as error:
        said = str(error)
    container = engine.start(RunRequest(argv=("sleep", "100")))
    group = Path(f"/proc/{container.inspect().pid}/cgroup").read_text()
    container.remove(force=True)
    print(json.dumps([said, group]))
"""
SILENT_BUS = """
import os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/dbus/system_bus_socket")
listener.listen()
if os.fork() == 0:
    listener.settimeout(60)
    while True:
        listener.accept()[0].close()
"""


def said_where(setting: str, home: Path) -> tuple[str, str]:
    """Run containers where ``setting`` was done to the mounts; return a limit and a group."""
    script = f'{setting}; exec {sys.executable} -c "$0" "$1"'
    argv = ["unshare", "--mount", "sh", "-ec", script, REPORT, str(home)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    said, group = json.loads(done.stdout)
    return said, group.strip().removeprefix("0::")


@pytest.mark.usefixtures("root", "groups")
def test_without_systemd_groups_go_below_the_nearest_that_may_have_some(tmp_path: Path) -> None:
    said, group = said_where("mount -t tmpfs none /run/systemd", tmp_path / "store")
    assert said == f"{64 * MEBIBYTE}\n"
    own = Path(Path("/proc/self/cgroup").read_text().strip().removeprefix("0::"))
    above = str(Path(group).parent)
    assert above in map(str, own.parents)
    assert not Path(f"/sys/fs/cgroup{above}/cgroup.procs").read_text() or above == "/"


@pytest.mark.usefixtures("root", "groups")
@pytest.mark.parametrize("answers", [False, True])
def test_a_systemd_that_gives_nothing_is_named_and_containers_run(
    tmp_path: Path, *, answers: bool
) -> None:
    setting = "mount -t tmpfs none /run/dbus"
    if answers:
        setting += f"; {sys.executable} -c '{SILENT_BUS}' >/dev/null 2>&1"
    said, group = said_where(setting, tmp_path / "store")
    assert "cannot enforce a limit on memory: systemd" in said
    assert ("does not answer on" if answers else "there is no /run/dbus/system_bus_socket") in said
    assert "cellblock-" not in group


@pytest.mark.usefixtures("root")
def test_a_user_is_given_groups_also_outside_of_its_own_systemd() -> None:
    """As after a log-in by ssh: the session is a unit of the machine's systemd."""
    user = next((path.name for path in Path("/var/lib/systemd/linger").glob("*")), None)
    if user is None or not Path(f"/run/user/{pwd.getpwnam(user).pw_uid}/bus").is_socket():
        pytest.skip("needs an ordinary user with a systemd of its own")
    account = pwd.getpwnam(user)
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, account.pw_uid, account.pw_gid)
        words = [f"HOME={home}", f"PYTHONPATH={os.pathsep.join(sys.path)}", sys.executable]
        argv = ["runuser", "-u", user, "--", "env", "-i", *words, "-c", REPORT, f"{home}/store"]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=200, cwd="/"
        )
    assert done.returncode == 0, done.stderr
    said, group = json.loads(done.stdout)
    assert said == f"{64 * MEBIBYTE}\n"
    assert f"/user@{account.pw_uid}.service/" in group
