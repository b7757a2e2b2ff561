"""What a machine offers, and what is swept."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from cellblock_engine import Diagnosis, Engine, Removal, RunRequest
from cellblock_engine.layout import Layout
from support import capabilities, leaks
from support.ordinary import OrdinaryUser

RUNGS = [
    "kernel",
    "user namespaces",
    "subordinate ids",
    "namespaces",
    "overlay",
    "idmapped mounts",
    "limit --memory",
    "limit --cpus",
    "limit --pids-limit",
    "seccomp",
    "landlock",
    "network none",
    "network host",
]


def by_name(found: Diagnosis) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


def test_every_rung_is_there_in_one_line_with_its_remedy(engine: Engine) -> None:
    found = engine.doctor()
    assert [check.name for check in found.checks] == RUNGS
    for check in found.checks:
        assert check.found
        assert "\n" not in check.found + check.lost + check.remedy
        assert bool(check.lost) == bool(check.remedy) == (check.status != "ok")
    assert found.swept == ()


def test_root_has_all_that_the_tests_of_root_use(root: None, engine: Engine) -> None:
    capabilities.need_memory_cgroup()
    wanted = {*RUNGS[:7], "seccomp", "network none"}
    statuses = by_name(engine.doctor())
    assert {name for name in wanted if statuses[name] != "ok"} == set()


def test_it_leaves_nothing_behind(engine: Engine, tmp_path: Path) -> None:
    engine.doctor()
    fds = set(os.listdir("/proc/self/fd"))
    files = sorted(tmp_path.rglob("*"))
    assert engine.doctor().usable
    assert set(os.listdir("/proc/self/fd")) == fds
    assert sorted(tmp_path.rglob("*")) == files
    assert leaks.empty_cgroups(f"cellblock-doctor-{os.getpid()}") == set()


def test_what_an_ordinary_user_lacks_says_how_to_get_it(ordinary_user: OrdinaryUser) -> None:
    done = ordinary_user.run_cellblock("doctor", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["user namespaces"]["status"] == rows["overlay"]["status"] == "ok"
    assert rows["network none"]["status"] == "ok"
    for name in ("subordinate ids", "idmapped mounts"):
        assert (rows[name]["status"], rows[name]["remedy"]) == ("missing", "run as root")
    assert rows["limit --memory"]["status"] == "missing"
    assert "--memory is refused" in rows["limit --memory"]["lost"]


@pytest.mark.parametrize(
    ("release", "status", "lost"),
    [
        ("5.10.0-23-amd64", "missing", "images"),
        ("6.1.0-28-amd64", "partial", "100 layers"),
        ("6.8.0", "ok", ""),
        ("7.0-rc1", "ok", ""),
    ],
)
def test_kernels(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, release: str, status: str, lost: str
) -> None:
    real = os.uname()
    monkeypatch.setattr(
        os, "uname", lambda: types.SimpleNamespace(release=release, machine=real.machine)
    )
    kernel = engine.doctor().checks[0]
    assert (kernel.status, kernel.found) == (status, release)
    assert lost in kernel.lost


def examined(home: Path, before: str) -> dict[str, dict[str, str]]:
    """Return what the command says after ``before`` has been done to its process."""
    program = f"import sys\n{before}\nfrom cellblock.cli import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", "--json"],
        env={**os.environ, "CELLBLOCK_HOME": str(home)},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_where_a_filter_forbids_namespaces(tmp_path: Path) -> None:
    """As inside most containers."""
    refuse = (
        "from cellblock_engine.linux import seccomp, syscalls as linux\n"
        "linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)\n"
        "seccomp.install(seccomp.host_filter())"
    )
    rows = examined(tmp_path / "store", refuse)
    assert rows["user namespaces"]["status"] == rows["overlay"]["status"] == "missing"
    assert rows["user namespaces"]["lost"] == "containers cannot run"
    assert "filter" in rows["user namespaces"]["remedy"]
    assert rows["seccomp"]["status"] == "ok"


def test_where_a_setting_forbids_namespaces(tmp_path: Path) -> None:
    capabilities.need_user_namespaces()
    refuse = (
        "import os\n"
        "from cellblock_engine.linux import syscalls as linux\n"
        "uid, gid = os.getuid(), os.getgid()\n"
        "linux.unshare(linux.CLONE_NEWUSER)\n"
        "def write(path, text):\n"
        "    with open(path, 'w') as file:\n"
        "        file.write(text)\n"
        "write('/proc/self/setgroups', 'deny')\n"
        "write('/proc/self/uid_map', f'0 {uid} 1')\n"
        "write('/proc/self/gid_map', f'0 {gid} 1')\n"
        "write('/proc/sys/user/max_user_namespaces', '0')"
    )
    row = examined(tmp_path / "store", refuse)["user namespaces"]
    assert row["status"] == "missing"
    assert row["remedy"] == "sysctl user.max_user_namespaces=10000"


@pytest.mark.attack(70, 74)
def test_what_killed_processes_left_is_swept_and_named(
    root: None, engine: Engine, tmp_path: Path
) -> None:
    home = tmp_path / "store"
    layout = Layout.default(home)
    attached = engine.spawn(
        RunRequest(argv=("sleep", "100"), name="victim", removal=Removal.AT_END)
    )
    identifier = attached.container.id
    pid = attached.container.inspect().pid
    assert pid is not None
    monitor = _parent(pid)
    os.kill(_parent(monitor), signal.SIGKILL)  # the spawner, which would sweep
    os.kill(monitor, signal.SIGKILL)
    attached.wait(10)
    attached.close()
    (layout.staging / "0123456789abcdef").mkdir(parents=True)
    (layout.staging / "0123456789abcdef" / "half").write_text("done")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(layout.run / "ffffffffffff.sock"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as served:
        served.bind(str(layout.run / "eeeeeeeeeeee.sock"))
        served.listen()
        swept = engine.doctor().swept
        assert (layout.run / "eeeeeeeeeeee.sock").exists(), "somebody listens there"
    short = identifier[:12]
    assert "unfinished work 0123456789abcdef" in swept
    assert "socket ffffffffffff.sock of a container that is gone" in swept
    assert f"socket of {short}" in swept
    assert any(f"cellblock-{short} of {short}" in line for line in swept)
    assert not list(layout.staging.iterdir())
    assert leaks.empty_cgroups(f"cellblock-{short}") == set()
    (layout.run / "eeeeeeeeeeee.sock").unlink()
    assert engine.doctor().swept == ()


def test_what_is_alive_is_left_alone(engine: Engine) -> None:
    container = engine.start(RunRequest(argv=("sleep", "60")))
    assert engine.doctor().swept == ()
    assert container.inspect().status == "running"
    assert container.exec(["echo", "here"]).check().stdout == b"here\n"
    container.remove(force=True)


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])
