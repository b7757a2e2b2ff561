"""What another local user tries. Each test is named by the attack's number."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine import Engine, RunRequest
from cellblock_engine.layout import Layout
from cellblock_engine.runtime.spec import PROTOCOL
from support import capabilities
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


def test_65_another_user_meets_the_store_and_the_sockets(open_home: Path) -> None:
    python = capabilities.need_program("/usr/bin/python3")
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
            wanted = [str(open_home), str(layout.run), list(map(str, sockets)), [pid, monitor]]
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
        finally:
            container.remove(force=True)
        outcome = json.loads(done.stdout)
        assert len(outcome) == 22
        assert {k: v for k, v in outcome.items() if v not in ("EACCES", "EPERM")} == {}
    shutil.rmtree(layout.run, ignore_errors=True)
    assert os.stat(open_home).st_mode & 0o077 == 0
