"""Runs in containers of a real image, through the command line and through the engine."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cellblock_engine import Engine, Limits, RunRequest, errors
from support import capabilities
from support.layouts import LayoutWriter, small_tar
from support.registry import Registry

MIB = 1 << 20

SELF_PORTRAIT = """
import json, os, pathlib, socket
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
net = pathlib.Path("/sys/class/net")
print(json.dumps({
    "pid": os.getpid(),
    "hostname": socket.gethostname(),
    "links": sorted(link.name for link in net.iterdir()),
    "lo_flags": int((net / "lo" / "flags").read_text(), 16),
    "mounts": [line.split()[4] for line in open("/proc/self/mountinfo")],
    "uid": os.getuid(),
    "uid_map": [[int(n) for n in line.split()] for line in open("/proc/self/uid_map")],
    "seccomp": int(status["Seccomp"]),
    "no_new_privs": int(status["NoNewPrivs"]),
    "namespaces": {n: os.readlink(f"/proc/self/ns/{n}") for n in os.listdir("/proc/self/ns")},
    "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
    "environment": dict(os.environ),
}))
"""
EAT_MEMORY = "x = [bytearray(b'x') * (1 << 20) for _ in range(300)]; print('ate it')"


def test_command_line_run_is_isolated(cellblock, base_image: str) -> None:
    flags = ["--rm", "--memory", "64m", "--pids-limit", "64", "--network", "none"]
    done = cellblock("run", *flags, base_image, "python3", "-c", SELF_PORTRAIT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    seen = json.loads(done.stdout)
    assert seen["pid"] == 2
    assert seen["processes"] == [1, 2]
    assert seen["hostname"] != socket.gethostname()
    assert seen["links"] == ["lo"]
    assert seen["lo_flags"] & 1, "lo is up"
    assert seen["uid"] == 0
    assert all(outside != 0 for _, outside, _ in seen["uid_map"])
    assert seen["seccomp"] == 2
    assert seen["no_new_privs"] == 1
    for name in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
        assert seen["namespaces"][name] != str(Path(f"/proc/self/ns/{name}").readlink()), name
    assert seen["mounts"].count("/") == 1
    assert {"/proc", "/dev", "/sys"} <= set(seen["mounts"])
    assert not [mount for mount in seen["mounts"] if mount.startswith(("/work", "/root", "/var"))]
    assert "CELLBLOCK_HOME" not in seen["environment"]


def test_loopback_serves(base_engine: Engine, base_image: str) -> None:
    program = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
server.accept()[0].sendall(b"heard")
print(client.recv(9))
"""
    done = base_engine.run(base_image, ["python3", "-c", program]).check()
    assert done.stdout == b"b'heard'\n"


def test_network_none_reaches_nothing(
    base_engine: Engine, base_image: str, registry: Registry
) -> None:
    program = f"import urllib.request; urllib.request.urlopen('http://{registry.host}/v2/')"
    done = base_engine.run(base_image, ["python3", "-c", program])
    assert done.exit_code == 1
    assert b"Connection refused" in done.stderr


def test_network_host_reaches_the_host(
    base_engine: Engine, base_image: str, registry: Registry
) -> None:
    program = (
        f"import urllib.request\nprint(urllib.request.urlopen('http://{registry.host}/v2/').status)"
    )
    done = base_engine.run(base_image, ["python3", "-c", program], network="host")
    assert done.stdout == b"200\n", done.stderr


def test_limits_are_in_force(base_engine: Engine, base_image: str) -> None:
    capabilities.need_memory_cgroup()
    request = RunRequest(
        image=base_image,
        argv=("sleep", "60"),
        limits=Limits(memory="64m", cpus=0.5, pids=64),
    )
    with base_engine.spawn(request) as attached:
        pid = wait_for_pid(base_engine, attached.container.id)
        groups = cgroups_of(pid)
        if "memory" in groups:
            assert read(groups["memory"] / "memory.limit_in_bytes") == str(64 * MIB)
            assert read(groups["pids"] / "pids.max") == "64"
            quota = int(read(groups["cpu"] / "cpu.cfs_quota_us"))
            assert quota * 2 == int(read(groups["cpu"] / "cpu.cfs_period_us"))
        else:
            assert read(groups[""] / "memory.max") == str(64 * MIB)
            assert read(groups[""] / "pids.max") == "64"
            quota, period = read(groups[""] / "cpu.max").split()
            assert int(quota) * 2 == int(period)
        attached.kill()


def wait_for_pid(engine: Engine, container_id: str) -> int:
    """Return the host pid of a container that is starting."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        info = engine.container(container_id).inspect()
        if info.status == "running" and info.pid:
            return int(info.pid)
        time.sleep(0.01)
    raise AssertionError(f"container {container_id} does not run")


def cgroups_of(pid: int) -> dict[str, Path]:
    """Return controller -> directory of a process; the empty name is cgroup v2."""
    root = Path("/sys/fs/cgroup")
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = root / name / path.lstrip("/")
    return found


def read(path: Path) -> str:
    return path.read_text().strip()


def test_out_of_memory_is_one_line_with_limit_and_peak(cellblock, base_image: str) -> None:
    capabilities.need_memory_cgroup()
    done = cellblock("run", "--rm", "--memory", "64m", base_image, "python3", "-c", EAT_MEMORY)
    assert done.returncode == 137
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "64 MiB" in done.stderr
    assert "peak" in done.stderr


def test_out_of_memory_in_the_engine(base_engine: Engine, base_image: str) -> None:
    capabilities.need_memory_cgroup()
    argv = ["python3", "-c", EAT_MEMORY]
    done = base_engine.run(base_image, argv, limits=Limits(memory="64m"))
    assert isinstance(done.verdict, errors.OutOfMemory)
    assert done.verdict.own
    assert done.verdict.limit_bytes == 64 * MIB
    assert 32 * MIB < done.verdict.peak_bytes <= 64 * MIB
    assert done.exit_code == 137
    with pytest.raises(errors.OutOfMemory):
        done.check()


def test_pids_limit(base_engine: Engine, base_image: str) -> None:
    program = """
import os, sys, time
children = 0
try:
    while children < 500:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        children += 1
except BlockingIOError:
    print(children)
    sys.exit(3)
"""
    argv = ["python3", "-c", program]
    done = base_engine.run(base_image, argv, limits=Limits(pids=20))
    assert done.exit_code == 3
    assert int(done.stdout) == 19
    assert isinstance(done.verdict, errors.PidsExceeded)
    assert done.verdict.limit == 20


def test_timeout(base_engine: Engine, base_image: str) -> None:
    started = time.monotonic()
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    done = base_engine.run(base_image, ["python3", "-c", program], timeout=0.5)
    assert isinstance(done.verdict, errors.TimedOut)
    assert time.monotonic() - started < 15


def test_timeout_on_the_command_line(cellblock, base_image: str) -> None:
    done = cellblock("run", "--rm", "--timeout", "0.5", base_image, "sleep", "60")
    assert done.returncode == errors.TimedOut.exit_status
    assert len(done.stderr.strip().splitlines()) == 1
    assert "0.5 s" in done.stderr


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-command"], 127),
        (["/no/such/path"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
    ],
)
def test_exit_codes_are_dockers(cellblock, base_image: str, argv: list[str], status: int) -> None:
    done = cellblock("run", "--rm", base_image, *argv)
    assert done.returncode == status
    if status in (126, 127):
        assert len(done.stderr.strip().splitlines()) == 1
        assert argv[0] in done.stderr


def test_streams_and_stdin(cellblock, base_image: str) -> None:
    done = cellblock("run", "--rm", "-i", base_image, "sh", "-c", "cat; echo err >&2", stdin="in")
    assert (done.returncode, done.stdout, done.stderr) == (0, "in", "err\n")


def test_an_input_that_nobody_holds_stays_open(base_engine: Engine, base_image: str) -> None:
    # cat ends when its input does
    requests = [
        RunRequest(base_image, ("cat",), interactive=True),
        RunRequest("host", interactive=True),
    ]
    waiting = [base_engine.start(request) for request in requests]
    ended = base_engine.start(RunRequest(base_image, ("cat",)))
    assert ended.wait(10).exit_code == 0
    for container in waiting:
        with pytest.raises(TimeoutError):
            container.wait(0.5)
        container.stop(0)
        base_engine.start(container.name)
        with pytest.raises(TimeoutError):
            container.wait(0.5)


def test_without_interactive_stdin_is_empty(cellblock, base_image: str) -> None:
    done = cellblock("run", "--rm", base_image, "cat", stdin="not for you")
    assert (done.returncode, done.stdout) == (0, "")


def test_large_streams_arrive_whole(base_engine: Engine, base_image: str) -> None:
    data = os.urandom(5 * MIB)
    done = base_engine.run(base_image, ["cat"], stdin=data)
    assert done.stdout == data


def test_flags_that_shape_the_process(cellblock, base_image: str) -> None:
    program = "import os, socket; print(os.getcwd(), os.getuid(), os.getgid(), os.environ['A'], "
    program += "socket.gethostname())"
    flags = ["--rm", "-e", "A=b=c", "-w", "/srv", "-u", "1000:1001", "--hostname", "pip"]
    done = cellblock("run", *flags, base_image, "python3", "-c", program)
    assert (done.returncode, done.stdout) == (0, "/srv 1000 1001 b=c pip\n"), done.stderr


def test_image_configuration_is_honoured(
    base_engine: Engine, base_layout: Path, registry: Registry, tmp_path: Path
) -> None:
    writer = LayoutWriter(tmp_path / "configured")
    config = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ['echo "$COLOUR $(pwd) $(id -u) $0"'],
        "Env": ["PATH=/usr/bin:/bin", "COLOUR=blue"],
        "WorkingDir": "/made/by/engine",
        "User": "games",
    }
    writer.image(writer.adopt(base_layout), config)
    reference = registry.push(writer.directory, "configured")
    base_engine.pull(reference)
    done = base_engine.run(reference).check()
    assert done.stdout == b"blue /made/by/engine 5 /bin/sh\n"
    own = base_engine.run(reference, ["echo $COLOUR"], env={"COLOUR": "red"}).check()
    assert own.stdout == b"red\n"
    other = base_engine.run(reference, ["/"], entrypoint="ls", user="0", workdir="/").check()
    assert b"usr" in other.stdout


def test_an_image_that_has_a_layer_twice_runs(
    base_engine: Engine, base_layout: Path, registry: Registry, tmp_path: Path
) -> None:
    """As the empty one of each WORKDIR that was there already; an overlay takes none twice."""
    writer = LayoutWriter(tmp_path / "twice")
    base = writer.adopt(base_layout)
    empty = writer.layer(small_tar(tmp_path / "empty.tar", {}))
    first = writer.layer(small_tar(tmp_path / "first.tar", {"file": b"first"}))
    gone = writer.layer(small_tar(tmp_path / "gone.tar", {".wh.file": b""}))
    writer.image([*base, empty, first, gone, empty, first, empty])
    reference = registry.push(writer.directory, "twice")
    image = base_engine.pull(reference)
    assert len(image.layers) == len(base) + 6
    assert base_engine.run(reference, ["cat", "/file"]).check().stdout == b"first"


def test_layered_image_shows_what_umoci_made(
    base_engine: Engine, layered_layout: Path, registry: Registry
) -> None:
    reference = registry.push(layered_layout, "layered", schema="v2s2")
    base_engine.pull(reference)
    program = """
import os, stat
f = "/srv/files/"
print(sorted(os.listdir("/srv/opaque")), sorted(os.listdir(f)))
print(open(f + "folder").read(), os.path.isdir(f + "link"), os.path.exists("/etc/issue.net"))
print(os.stat(f + "one").st_ino == os.stat(f + "same").st_ino, os.stat(f + "one").st_mtime)
p = os.stat(f + "private")
print(p.st_uid, p.st_gid, oct(p.st_mode), oct(os.stat(f + "setuid").st_mode))
"""
    done = base_engine.run(reference, ["python3", "-c", program])
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [
        "['kept'] ['folder', 'link', 'one', 'private', 'same', 'setuid', 'sticky']",
        "a file now",
        " True False",
        "True 1000000000.0",
        "1000 1001 0o100600 0o104755",
    ]


def test_writes_stay_in_their_container(base_engine: Engine, base_image: str) -> None:
    base_engine.run(base_image, ["sh", "-c", "echo mine > /etc/issue; rm /bin/ls"]).check()
    done = base_engine.run(base_image, ["sh", "-c", "cat /etc/issue; ls /bin/ls"]).check()
    assert b"mine" not in done.stdout
    assert b"/bin/ls" in done.stdout


def test_host_image_has_the_packages_of_the_notebook(root: None, base_engine: Engine) -> None:
    program = "import pandas, os; print(len(pandas.DataFrame([1, 2])), os.getpid())"
    done = base_engine.run("host", [sys.executable, "-c", program]).check()
    assert done.stdout == b"2 2\n"


def test_detached_and_its_verbs(cellblock, base_image: str) -> None:
    script = "echo out; echo err >&2; exec sleep 300"
    started = cellblock("run", "-d", "--name", "worker", base_image, "sh", "-c", script)
    assert started.returncode == 0, started.stderr
    try:
        (row,) = (
            row for row in json.loads(cellblock("ps", "--json").stdout) if "worker" in str(row)
        )
        assert started.stdout.strip() == row["container_id"]
        inside = cellblock("exec", "worker", "sh", "-c", "echo $PPID; cat /proc/2/comm; exit 4")
        assert (inside.returncode, inside.stdout) == (4, "0\nsleep\n"), inside.stderr
        logs = cellblock("logs", "worker")
        assert (logs.stdout, logs.stderr) == ("out\n", "err\n")
        again = cellblock("run", "--name", "worker", base_image, "true")
        assert again.returncode == 125
        assert "worker" in again.stderr
        assert len(again.stderr.strip().splitlines()) == 1
        assert json.loads(cellblock("inspect", "worker").stdout)
        assert cellblock("rm", "worker").returncode != 0, "a running container stays"
        assert cellblock("kill", "worker").returncode == 0
        waited = cellblock("wait", "worker")
        assert waited.stdout.strip() == "137"
    finally:
        gone = cellblock("rm", "--force", "worker")
    assert gone.returncode == 0, gone.stderr
    assert "worker" not in cellblock("ps", "-a", "--json").stdout


def test_stop_asks_first(base_engine: Engine, base_image: str) -> None:
    program = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(9))\n"
    program += "print('up', flush=True)\ntime.sleep(300)"
    request = RunRequest(image=base_image, argv=("python3", "-c", program))
    container = base_engine.start(request)
    deadline = time.monotonic() + 20
    while not list(container.logs()) and time.monotonic() < deadline:
        time.sleep(0.05)
    container.stop(grace_s=20)
    assert container.wait(timeout_s=20).exit_code == 9
    container.remove()


@pytest.mark.attack(70)
def test_a_foreground_run_dies_with_its_client(base_home: Path, base_image: str) -> None:
    program = f"""
from pathlib import Path
from cellblock_engine import Engine, Removal, RunRequest
engine = Engine.open(Path({str(base_home)!r}))
removal = Removal.AT_END
attached = engine.spawn(RunRequest({base_image!r}, ("sleep", "300"), removal=removal))
print(attached.container.id, flush=True)
attached.wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        container_id = client.stdout.readline().decode().strip()
        assert container_id
        client.kill()
    with Engine.open(base_home) as engine:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if container_id not in [known.id for known in engine.containers()]:
                break
            time.sleep(0.05)
        assert container_id not in [known.id for known in engine.containers()]


def test_a_detached_container_outlives_its_client(base_home: Path, base_image: str) -> None:
    program = f"""
import os, signal
from pathlib import Path
from cellblock_engine import Engine, RunRequest
engine = Engine.open(Path({str(base_home)!r}))
print(engine.start(RunRequest(image={base_image!r}, argv=("sleep", "300"))).id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    container_id = done.stdout.strip()
    time.sleep(1)
    with Engine.open(base_home) as engine:
        container = engine.container(container_id)
        try:
            assert container.inspect().status == "running"
        finally:
            container.remove(force=True)


def test_inside_a_running_event_loop(base_engine: Engine, base_image: str) -> None:
    async def cell() -> int:
        return base_engine.run(base_image, ["sh", "-c", "exit 5"]).exit_code

    assert asyncio.run(cell()) == 5


def test_from_several_threads(base_engine: Engine, base_image: str) -> None:
    codes: dict[int, int] = {}

    def one(number: int) -> None:
        argv = ["sh", "-c", f"exit {number}"]
        codes[number] = base_engine.run(base_image, argv).exit_code

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert codes == {number: number for number in range(8)}
