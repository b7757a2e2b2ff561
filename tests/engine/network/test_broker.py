"""The broker by itself, without a container: who it is, and that its connections are apart."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cellblock_engine.linux import landlock, seccomp
from cellblock_engine.network import broker

UNUSED_ID = 2_000_000_000
HOSTS = ("fast.example", "slow.example")


class Running:
    """A broker in a child of this process, its port and where it tells what it denies."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            self.words, words = os.pipe()
            monitor = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                identity = UNUSED_ID if os.geteuid() == 0 else None
                program = seccomp.host_filter()
                fd = listener.fileno()
                try:
                    broker.run(broker.Post(fd, words, HOSTS, identity, program, monitor))
                finally:
                    os._exit(1)
            os.close(words)

    def begin(self, host: str) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(20)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
        return sock

    def ask(self, host: str) -> bytes:
        with self.begin(host) as sock:
            return sock.recv(1000)


@pytest.fixture
def start() -> Iterator[Callable[[], Running]]:
    started: list[Running] = []

    def begin() -> Running:
        started.append(Running())
        return started[-1]

    yield begin
    for each in started:
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
        os.waitpid(each.pid, 0)
        os.close(each.words)


def test_it_keeps_nothing_that_it_has_no_use_for(start, tmp_path):
    secret = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    running = start()
    os.close(secret)
    assert running.ask("other.example").startswith(b"HTTP/1.1 403 ")
    place = Path(f"/proc/{running.pid}")
    lines = (place / "status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert {int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == {str(UNUSED_ID)}
        assert set(status["Gid"].split()) == {str(UNUSED_ID)}
        assert status["Groups"].strip() == ""
        assert int(status["CapBnd"], 16) == 0
        kept = ["/dev/null"] * 3 + ["pipe", "socket"]
        assert eventually(lambda: descriptors(place) == kept)  # once the connection has ended
    assert "512" in (place / "limits").read_text().partition("open files")[2].split()[:1]


def test_a_slow_name_holds_up_no_other(start, monkeypatch):
    def resolve(host: bytes, *_: object, **__: object) -> list[object]:
        time.sleep(30 if host == b"slow.example" else 0)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    running = start()
    with running.begin("slow.example"):
        begun = time.monotonic()
        answer = running.ask("fast.example")
        assert answer.startswith(b"HTTP/1.1 403 fast.example is allowed, but it has no address")
        assert time.monotonic() - begun < 5


def test_so_many_denials_are_told_and_all_are_answered(start):
    running = start()
    for number in range(broker.MOST_LINES + 10):
        assert running.ask(f"a{number}.example").startswith(b"HTTP/1.1 403 ")
    os.kill(running.pid, signal.SIGKILL)
    with os.fdopen(os.dup(running.words), "rb") as stream:
        told = stream.read().decode().splitlines()
    assert len(told) == broker.MOST_LINES + 1
    assert told[0].startswith("cellblock: a0.example is not among this container's allowed hosts")
    assert told[-1] == "cellblock: further denials are not shown"


@pytest.mark.skipif(not landlock.available(), reason="needs Landlock (ABI 2, Linux 5.19)")
def test_it_can_change_and_execute_no_file(start, monkeypatch):
    place = Path(tempfile.mkdtemp())  # not pytest's own, which only its user may enter
    place.chmod(0o777)
    attempts = {
        "write": lambda: os.open(place / "there", os.O_WRONLY),
        "make": lambda: os.open(place / "new", os.O_WRONLY | os.O_CREAT),
        "remove": lambda: os.unlink(place / "there"),
        "execute": lambda: os.execv("/bin/true", ["true"]),
    }
    (place / "there").write_text("kept")
    (place / "there").chmod(0o666)

    def resolve(*_: object, **__: object) -> list[object]:
        outcome = []
        for name, attempt in attempts.items():
            try:
                attempt()
            except OSError as error:
                outcome.append(f"{name} {error.errno}")
        raise socket.gaierror(0, ", ".join(outcome))

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        answer = start().ask("fast.example").partition(b"\r\n")[0].decode()
        assert answer.endswith("not found: write 13, make 13, remove 13, execute 13")
        assert (place / "there").read_text() == "kept"
    finally:
        shutil.rmtree(place)


def test_it_ends_with_whoever_started_it():
    ours, theirs = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        running = Running()
        running.ask("other.example")
        os.write(theirs, str(running.pid).encode())
        time.sleep(60)
        os._exit(0)
    os.close(theirs)
    pid = int(os.read(ours, 20))
    os.close(ours)
    os.kill(monitor, signal.SIGKILL)
    os.waitpid(monitor, 0)
    assert eventually(lambda: not is_running(pid))


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def descriptors(place: Path) -> list[str]:
    return sorted(str(fd.readlink()).partition(":")[0] for fd in (place / "fd").iterdir())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
