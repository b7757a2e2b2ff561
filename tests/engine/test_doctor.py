"""What a machine offers, and what is swept."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cellblock_engine import Diagnosis, Engine, Removal, RunRequest
from cellblock_engine.doctor import namespaces, surroundings
from cellblock_engine.doctor.surroundings import Surroundings
from cellblock_engine.layout import Layout
from cellblock_engine.linux import cgroups
from cellblock_engine.linux.idmaps import IdMaps
from support import capabilities, leaks
from support.ordinary import OrdinaryUser

RUNGS = [
    "kernel",
    "surroundings",
    "first process",
    "clock",
    "store",
    "runtime directory",
    "user namespaces",
    "ids",
    "namespaces",
    "proc",
    "overlay",
    "many layers",
    "memory layers",
    "idmapped mounts",
    "control groups",
    "limit --memory",
    "limit --cpus",
    "limit --pids-limit",
    "limit --memory-swap",
    "limit --cpuset-cpus",
    "limit --cpu-shares",
    "limit --memory-reservation",
    "limit --blkio-weight",
    "limit --device-read-bps",
    "limit --device-write-bps",
    "limit --device-read-iops",
    "limit --device-write-iops",
    "seccomp",
    "seccomp notification",
    "landlock",
    "network none",
    "network host",
]
PRESENT = ["user namespaces", "ids", "namespaces", "proc", "overlay", "seccomp", "network none"]


def by_name(found: Diagnosis) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


def test_every_rung_is_there_in_one_line_with_its_remedy(engine: Engine) -> None:
    found = engine.doctor()
    assert [check.name for check in found.checks] == RUNGS
    for check in found.checks:
        assert check.found
        assert "\n" not in check.found + check.lost + check.remedy
        assert bool(check.lost) == bool(check.remedy) == (check.status != "ok")
    assert (found.stale, found.swept, found.damage) == ((), (), ())


def test_root_has_all_that_the_tests_of_root_use(root: None, engine: Engine) -> None:
    capabilities.need_memory_cgroup()
    wanted = {*PRESENT, "idmapped mounts", "limit --memory", "limit --cpus", "limit --pids-limit"}
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
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    statuses = {name: rows[name]["status"] for name in PRESENT}
    assert statuses == {**dict.fromkeys(PRESENT, "ok"), "ids": "partial"}
    assert f"a single id, {ordinary_user.uid}:{ordinary_user.uid}" in rows["ids"]["found"]
    assert rows["ids"]["remedy"]
    if rows["limit --memory"]["status"] == "missing":
        assert "--memory is refused" in rows["limit --memory"]["lost"]
        assert rows["limit --memory"]["remedy"]
    done = ordinary_user.run_cellblock("run", "--rm", "host", "true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_ids_of_a_user_who_has_some(subordinate_user: OrdinaryUser) -> None:
    done = subordinate_user.run_cellblock("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["ids"]["status"] == "ok"
    assert f"by newuidmap: {subordinate_user.uid}, " in rows["ids"]["found"]
    barred = ["setpriv", "--no-new-privs", subordinate_user.python, "-m", "cellblock"]
    env = {"CELLBLOCK_HOME": f"{subordinate_user.home}/barred"}
    done = subordinate_user.run([*barred, "doctor", "--json"], env=env)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert (done.returncode, rows["ids"]["status"]) == (0, "partial")
    assert "no_new_privs" in rows["ids"]["found"]
    assert "NoNewPrivileges" in rows["ids"]["remedy"]


def within(user: OrdinaryUser, prepared: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command as user 0 of a user and mount namespace, after something was done there."""
    script = f'{prepared}; exec "$0" -m cellblock "$@"'
    unshared = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script)
    # A store of its own: that of the user outside has other ids.
    return user.run([*unshared, user.python, *argv], env={"CELLBLOCK_HOME": f"{user.home}/nested"})


def test_user_0_of_a_namespace_is_an_ordinary_user(ordinary_user: OrdinaryUser) -> None:
    capabilities.need_program("unshare")
    done = within(ordinary_user, ":", "doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert "in a user namespace of 1 id" in rows["surroundings"]["found"]
    assert "a single id, 0:0" in rows["ids"]["found"]
    done = within(ordinary_user, ":", "run", "--rm", "host", "echo", "on")
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")


def test_a_store_whose_ids_are_not_to_be_had(ordinary_user: OrdinaryUser) -> None:
    assert ordinary_user.run_cellblock("run", "--rm", "host", "true").returncode == 0
    inside = ["unshare", "--user", "--map-root-user", ordinary_user.python, "-m", "cellblock"]
    done = ordinary_user.run([*inside, "doctor", "--json"])
    assert (done.returncode, done.stderr) == (1, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["ids"]["status"] == "missing"
    assert "was made with the ids" in rows["ids"]["found"]
    assert "content" not in rows


def test_where_files_of_proc_are_covered(ordinary_user: OrdinaryUser) -> None:
    """As in most containers: the kernel then gives no fresh /proc, which would uncover them."""
    capabilities.need_program("unshare")
    cover = "mount -t tmpfs none /proc/irq"
    done = within(ordinary_user, cover, "doctor", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["user namespaces"]["status"] == rows["overlay"]["status"] == "ok"
    assert (rows["proc"]["status"], rows["proc"]["lost"]) == ("missing", "containers cannot run")
    assert rows["proc"]["found"] == "proc: Operation not permitted"
    done = within(ordinary_user, cover, "run", "--rm", "host", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "part of /proc" in done.stderr


@pytest.mark.parametrize(
    ("release", "root", "status", "lost"),
    [
        ("5.10.0-23-amd64", False, "missing", "containers cannot run"),
        ("5.15.0-91-generic", False, "ok", ""),
        ("5.15.0-91-generic", True, "missing", "idmapped mounts"),
        ("6.1.0-28-amd64", True, "ok", ""),
        ("7.0-rc1", True, "ok", ""),
    ],
)
def test_kernels(release: str, root: bool, status: str, lost: str) -> None:
    rung = surroundings.kernel(Surroundings(release, {}), root=root)
    assert (rung.status, rung.found) == (status, release)
    assert lost in rung.lost


@pytest.mark.parametrize(
    ("files", "environment", "found"),
    [
        ({}, {}, "no container shows"),
        ({".dockerenv": ""}, {}, "in Docker (/.dockerenv)"),
        ({"run/.containerenv": ""}, {}, "in Podman (/run/.containerenv)"),
        (
            {"proc/self/mountinfo": "1 0 0:1 / / rw - overlay overlay rw\n"},
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JUPYTERHUB_SERVICE_PREFIX": "/user/me/"},
            "in Kubernetes (KUBERNETES_SERVICE_HOST), in JupyterHub (JUPYTERHUB_*), "
            "in some container (/ is of overlay)",
        ),
        ({"run/systemd/container": "lxc\n"}, {}, "in lxc (its own word)"),
        ({}, {"container": "\x1b[2J"}, "no container shows"),
        (
            {"proc/version": "Linux version 5.15.153.1-microsoft-standard-WSL2 (gcc)"},
            {},
            "in WSL 2",
        ),
        (
            {"proc/version": "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)"},
            {},
            "WSL 1, which has no Linux kernel",
        ),
    ],
)
def test_what_is_around_is_told(
    tmp_path: Path, files: dict[str, str], environment: dict[str, str], found: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    around = replace(surroundings.look(tmp_path, environment), ids=None)
    assert surroundings.surroundings(around).found == found


def test_a_store_that_cannot_be_made(ordinary_user: OrdinaryUser) -> None:
    argv = [ordinary_user.python, "-m", "cellblock", "doctor", "--json"]
    done = ordinary_user.run(argv, env={"CELLBLOCK_HOME": "/usr/store"})
    assert (done.returncode, done.stderr) == (1, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["store"]["found"] == "/usr/store: Permission denied"
    assert "CELLBLOCK_HOME" in rows["store"]["remedy"]
    assert rows["user namespaces"]["status"] == "ok"


def test_namespaces_that_apparmor_makes_useless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Ubuntu from 24.04, where they are made without capabilities."""
    answers = dict.fromkeys(("user namespaces", "ids", "pid namespaces"))
    refused = dict.fromkeys(("overlay", "proc"), "Permission denied")
    sysctls = {"kernel/apparmor_restrict_unprivileged_userns": "1"}
    monkeypatch.setattr(namespaces, "_sysctl", sysctls.get)
    ids = namespaces.Ids(IdMaps.of([[[0, 1000, 1]], [[0, 1000, 1]]]))
    around = Surroundings("6.8.0", {})
    first = next(namespaces.all_rungs({**answers, **refused}, ids, around))
    assert (first.name, first.status) == ("user namespaces", "missing")
    assert "AppArmor" in first.found
    assert first.remedy == "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    sysctls.clear()
    assert next(namespaces.all_rungs({**answers, **refused}, ids, around)).status == "ok"


def test_a_clock_that_is_behind() -> None:
    assert surroundings.clock().status == "ok"
    wrong = surroundings.clock(now_s=0.0)
    assert (wrong.status, wrong.found[:16]) == ("partial", "1970-01-01 00:00")


ORPHANS = """
import os, sys
from cellblock_engine.linux import syscalls as linux
linux.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: takes orphans, and has something better to do
"""


def test_a_first_process_that_does_not_reap(tmp_path: Path) -> None:
    row = examined(tmp_path / "store", ORPHANS)["first process"]
    assert row["status"] == "partial"
    assert "does not reap orphans" in row["found"]
    assert "init" in row["remedy"]


def test_containers_of_elsewhere_in_the_same_store(engine: Engine, tmp_path: Path) -> None:
    """As two servers see each other's that have one store, but sockets of their own."""
    container = engine.start(RunRequest(argv=("sleep", "60")))
    layout = Layout.default(tmp_path / "store")
    socket_path = layout.monitor_socket(container.id)
    aside = socket_path.with_name("aside")
    assert by_name(engine.doctor())["store"] == "ok"
    socket_path.rename(aside)
    (rung,) = (check for check in engine.doctor().checks if check.name == "store")
    aside.rename(socket_path)
    container.remove(force=True)
    assert rung.status == "partial"
    assert container.id[:12] in rung.found
    assert "CELLBLOCK_HOME" in rung.remedy


def examined(home: Path, before: str) -> dict[str, dict[str, str]]:
    """Return what the command says after ``before`` has been done to its process."""
    program = f"import sys\n{before}\nfrom cellblock.cli import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", "--json"],
        env={**os.environ, "CELLBLOCK_HOME": str(home)},
        capture_output=True,
        check=False,
        timeout=60,
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == (rows["user namespaces"]["status"] == "missing")
    return rows


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
    remedy = rows["user namespaces"]["remedy"]  # how it is called depends on what is around
    assert "filter" in remedy or "seccomp" in remedy
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
        stale = engine.doctor().stale
        assert (layout.staging / "0123456789abcdef" / "half").exists(), "to look changes nothing"
        mended = engine.doctor(repair=True)
        swept = mended.swept
        assert sorted(swept) == sorted(stale)
        assert mended.stale == ()
        assert (layout.run / "eeeeeeeeeeee.sock").exists(), "somebody listens there"
    short = identifier[:12]
    assert "unfinished work 0123456789abcdef" in swept
    assert "socket ffffffffffff.sock of a container that is gone" in swept
    assert f"socket of {short}" in swept
    # A scope of systemd's went with its last process, and all below it.
    gone = isinstance(cgroups.discover(os.getpid()), cgroups.Delegable)
    assert gone or any(f"cellblock-{short} of {short}" in line for line in swept)
    assert not list(layout.staging.iterdir())
    assert leaks.empty_cgroups(f"cellblock-{short}") == set()
    (layout.run / "eeeeeeeeeeee.sock").unlink()
    assert engine.doctor().stale == ()


def test_what_is_alive_is_left_alone(engine: Engine) -> None:
    container = engine.start(RunRequest(argv=("sleep", "60")))
    assert engine.doctor(repair=True).swept == ()
    assert container.inspect().status == "running"
    assert container.exec(["echo", "here"]).check().stdout == b"here\n"
    container.remove(force=True)


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])
