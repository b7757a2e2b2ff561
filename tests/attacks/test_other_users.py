"""What another local user tries. Each test is named by the attack's number."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cellblock_engine import Engine, RunRequest
from cellblock_engine.layout import Layout
from cellblock_engine.runtime.spec import PROTOCOL
from support import capabilities, kernels
from support.inside import PRELUDE

pytestmark = pytest.mark.usefixtures("root")

STRANGER = 54321
PROGRAM = (
    f"{PRELUDE}\n"
    + """
def connect(path):
    for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.settimeout(3)
            client.connect(path)
def write(path):
    os.close(os.open(os.path.join(path, "planted"), os.O_CREAT | os.O_WRONLY))
home, run, sockets, pids = json.loads(sys.argv[1])
for path in (home, run):
    attempt("list " + path, lambda: os.listdir(path))
    attempt("enter " + path, lambda: os.chdir(path))
    attempt("write " + path, lambda: write(path))
for path in sockets:
    attempt("connect " + path, lambda: connect(path))
for pid in pids:
    for name in ("root", "cwd", "fd", "environ", "mem", "ns/user"):
        path = f"/proc/{pid}/{name}"
        attempt(path, lambda: os.listdir(path) if name in ("root", "cwd", "fd")
                else os.readlink(path) if name == "ns/user" else os.open(path, os.O_RDONLY))
    attempt(f"kill {pid}", lambda: os.kill(pid, 0))
print(json.dumps(outcome))
"""
)


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A place for a store that everybody can reach; it must protect itself."""
    directory = Path(tempfile.mkdtemp(prefix="cb-open-"))
    directory.chmod(0o755)
    yield directory / "store"
    shutil.rmtree(directory, ignore_errors=True)


def attempts(home: Path, run: Path, sockets: Sequence[Path], pids: Sequence[int]) -> dict[str, str]:
    """Return what a stranger's attempts came to, by what was attempted."""
    python = capabilities.need_program("/usr/bin/python3")
    wanted = [str(home), str(run), list(map(str, sockets)), list(pids)]
    done = subprocess.run(
        [python, "-I", "-c", PROGRAM, json.dumps(wanted)],
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def let_through(outcome: dict[str, str]) -> dict[str, str]:
    return {what: end for what, end in outcome.items() if end not in ("EACCES", "EPERM")}


@pytest.mark.attack(65)
def test_another_user_meets_the_store_and_the_sockets(open_home: Path) -> None:
    layout = Layout.default(open_home)
    with Engine.open(open_home) as engine:
        container = engine.start(RunRequest(argv=("sleep", "60")))
        try:
            pid = container.inspect().pid
            assert pid is not None
            status = Path(f"/proc/{pid}/status").read_text()
            monitor = int(status.partition("PPid:")[2].split()[0])
            sockets = [layout.spawner_socket(PROTOCOL), layout.monitor_socket(container.id)]
            assert all(path.is_socket() for path in sockets)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as own:
                own.connect(str(sockets[1]))  # its owner reaches it
            outcome = attempts(open_home, layout.run, sockets, [pid, monitor])
        finally:
            container.remove(force=True)
        assert len(outcome) == 22
        assert let_through(outcome) == {}
    shutil.rmtree(layout.run, ignore_errors=True)
    assert os.stat(open_home).st_mode & 0o077 == 0


@pytest.mark.attack(65)
def test_attempts_on_a_notebook_kernel(tmp_path: Path) -> None:
    """Its sockets, its folder of them, its gate and the kernel itself."""
    with kernels.site(tmp_path) as site:
        site.install("boxed")
        with site.kernel("boxed") as (km, kc):
            assert kernels.run(kc, "print(6 * 7)") == "42\n"
            room = Path(km.ip).parent
            sockets = sorted(room.rglob("*-[1-5]"))
            assert len(sockets) == 15  # the front end's, the kernel's, and the gate's way to those
            (gate,) = site.gates()
            # Where a hostile name could be looked up by somebody else, nothing listens.
            assert not any(listening(pid) for pid in (gate, *children(gate)))
            outcome = attempts(site.home, room, sockets, [gate])
            assert len(outcome) == 6 + 15 + 7
            assert let_through(outcome) == {}
            assert kernels.run(kc, "print(6 * 7)") == "42\n"


def listening(pid: int) -> list[str]:
    """Return the lines of /proc/PID/net that are TCP sockets of this process, of any state."""
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        own.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    return [
        line
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[9] in own
    ]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
