"""The way out of an off-line container: to the hosts that were named, and as long as it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cellblock_engine import Engine, InvalidInput, Removal, RunRequest
from cellblock_engine.layout import Layout
from support import capabilities, inside, leaks
from support.ordinary import OrdinaryUser

PRELUDE = """
import http.client, json, os, socket, ssl, sys, urllib.request
def connect(host, port):
    sock = socket.create_connection(("127.0.0.1", 3128), 20)
    sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\n\\r\\n".encode())
    line = sock.makefile("rb", buffering=0).readline().rstrip()  # no byte of what follows
    sock.makefile("rb", buffering=0).readline()
    return sock, line.decode()
def get(url):
    try:
        return urllib.request.urlopen(url, timeout=20).read().decode()
    except OSError as error:
        return str(error)
"""
PROXY = "http://127.0.0.1:3128"


def argv(code: str, *words: object) -> tuple[str, ...]:
    return ("python3", "-c", PRELUDE + code, *map(str, words))


def output(engine: Engine, request: RunRequest) -> tuple[str, str]:
    """Run it to its end, and return what it wrote on either stream."""
    with engine.spawn(request) as attached:
        stdout, stderr, end = attached.communicate(None, most_bytes=1 << 20)
    assert (end.exit_code, end.verdict) == (0, None), stderr.decode()
    return stdout.decode(), stderr.decode()


def brokers(engine: Engine) -> list[int]:
    layout = Layout.default(engine.home)
    return [
        pid
        for pid in leaks.engine_pids(layout.home, layout.run)
        if leaks.command(pid).startswith(b"cellblock-broker")
    ]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def serve(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(client,), daemon=True).start()


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server on loopback that greets, and sends everything back."""

    def answer(client: socket.socket) -> None:
        with client:
            client.sendall(b"hello\n")
            while data := client.recv(1 << 16):
                client.sendall(data)

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        threading.Thread(target=serve, args=(listener, answer), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def https(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """The port of an https server for the name localhost, and its certificate."""
    capabilities.need_program("openssl")
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key} "
        f"-out {certificate}".split(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            secure.recv(1 << 16)
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener, answer), daemon=True).start()
        yield listener.getsockname()[1], certificate.read_text()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def opened(echo: int) -> str:
    return f"localhost:{echo}/private"


FETCH = """
open("/tmp/ca", "w").write(sys.argv[2])
print(get(f"https://localhost:{sys.argv[1]}/"))
print(get("https://evil.example/"))
print(get("http://evil.example/"))
try:
    socket.create_connection(("192.0.2.1", 443), 20)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.attack(19)
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("image", ["host", "base"])
def test_one_host_is_reached_by_https_and_no_other(base_engine, base_image, https, image):
    port, certificate = https
    stdout, stderr = output(
        base_engine,
        RunRequest(
            image="host" if image == "host" else base_image,
            argv=argv(FETCH, port, certificate),
            allow_hosts=(f"localhost:{port}/private",),
            # Programs that heed it would reach the container's own loopback.
            env={"SSL_CERT_FILE": "/tmp/ca", "NO_PROXY": ""},
            removal=Removal.AT_END,
        ),
    )
    denied = "evil.example is not among this container's allowed hosts: --allow-host evil.example"
    plain = "plain http is not let out of this container: use https"
    assert stdout.splitlines() == [
        "secret",
        f"<urlopen error Tunnel connection failed: 403 {denied}>",
        f"HTTP Error 403: {plain}",
        "Network is unreachable",
    ]
    assert stderr.splitlines() == [f"cellblock: {denied}", f"cellblock: {plain}"]
    assert brokers(base_engine) == []


@pytest.mark.attack(19)
@pytest.mark.usefixtures("root")
def test_an_allowed_name_of_this_machine_is_denied_without_the_word(engine, echo):
    request = RunRequest(
        argv=argv(f"print(connect('localhost', {echo})[1])"),
        allow_hosts=(f"localhost:{echo}",),
        removal=Removal.AT_END,
    )
    stdout, stderr = output(engine, request)
    reason = "localhost is allowed, but its address 127.0.0.1 is private: --allow-host"
    assert stdout == f"HTTP/1.1 403 {reason} localhost:{echo}/private\n"
    assert stderr == f"cellblock: {reason} localhost:{echo}/private\n"


VARIABLES = "print(json.dumps({k: v for k, v in os.environ.items() if 'PROXY' in k.upper()}))"


@pytest.mark.usefixtures("root")
def test_programs_are_told_of_the_proxy_but_for_what_the_request_says(engine):
    def seen(**settings: object) -> dict[str, str]:
        request = RunRequest(argv=argv(VARIABLES), removal=Removal.AT_END, **settings)
        return json.loads(output(engine, request)[0])

    hosts = ("pypi.org",)
    assert seen() == {}
    everything = {
        each: value
        for name, value in {
            "HTTPS_PROXY": PROXY,
            "HTTP_PROXY": PROXY,
            "NO_PROXY": "localhost,127.0.0.1",
        }.items()
        for each in (name, name.lower())
    }
    assert seen(allow_hosts=hosts) == everything
    own = {"https_proxy": "http://127.0.0.1:1", "NO_PROXY": "mine"}
    rest = {name: everything[name] for name in ("HTTP_PROXY", "http_proxy")}
    assert seen(allow_hosts=hosts, env=own) == own | rest


@pytest.mark.usefixtures("root")
def test_a_detached_container_has_it_too_and_again_when_it_starts_again(engine, echo, opened):
    greet = argv(f"sock, line = connect('localhost', {echo}); print(line, sock.recv(9)); input()")
    request = RunRequest(argv=("sleep", "100"), name="box", allow_hosts=(opened,))
    engine.create(request)
    assert engine.container("box").inspect().allow_hosts == (opened,)
    for _ in range(2):
        container = engine.start("box")
        said = container.exec(greet, stdin="\n")
        assert said.stdout == b"HTTP/1.1 200 Connection established b'hello\\n'\n", said.stderr
        denied = container.exec(argv("print(connect('evil.example', 1)[1])"))
        assert b" 403 evil.example:1 is not among " in denied.stdout
        assert len(brokers(engine)) == 1
        container.stop(0)
        assert brokers(engine) == []
    told = [record.data for record in container.logs()]
    assert len(told) == 2
    assert all(line.startswith(b"cellblock: evil.example:1 is not among ") for line in told)
    container.remove()


@pytest.mark.attack(19)
@pytest.mark.usefixtures("root")
def test_the_broker_is_nobody(engine, opened):
    request = RunRequest(argv=("sleep", "100"), allow_hosts=(opened,), removal=Removal.AT_END)
    with engine.spawn(request) as attached:
        # The command does not wait for it; nothing is served before it is what it is to be.
        assert eventually(lambda: [status_of(pid)["Seccomp"] for pid in brokers(engine)] == ["2"])
        (pid,) = brokers(engine)
        status = status_of(pid)
        (first,) = (
            int(line.split()[1])
            for line in Path(f"/proc/{attached.pid}/uid_map").read_text().splitlines()
        )
        assert set(status["Uid"].split()) == {str(first + 65534)}
        assert set(status["Gid"].split()) == {str(first + 65534)}
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
        name = f"cellblock-broker {attached.container.id[:12]}".encode()
        assert leaks.command(pid).rstrip(b"\0") == name
        attached.kill()


FLOOD = """
socks = []
for _ in range(100):
    sock = socket.create_connection(("127.0.0.1", 3128), 60)
    sock.sendall(f"CONNECT localhost:{sys.argv[1]} HTTP/1.1\\r\\n\\r\\n".encode())
    socks.append(sock)
def served(sock, timeout):
    sock.settimeout(timeout)
    received = b""
    try:
        while b"hello" not in received:
            received += sock.recv(1000)
    except TimeoutError:
        return False
    return True
first = sum(served(sock, 20) for sock in socks[:64])
beyond = sum(served(sock, 0.1) for sock in socks[64:])
print(first, beyond, flush=True)
input()
for sock in socks[:64]:
    sock.close()
print(sum(served(sock, 20) for sock in socks[64:]))
"""


@pytest.mark.usefixtures("root")
def test_a_hundred_connections_at_once_are_served_by_and_by(engine, echo, opened):
    request = RunRequest(
        argv=argv(FLOOD, echo), allow_hosts=(opened,), removal=Removal.AT_END, interactive=True
    )
    with engine.spawn(request) as attached:
        assert inside.read_line(attached.stdout) == b"64 0\n"
        (pid,) = brokers(engine)
        assert Path(f"/proc/{pid}/status").read_text().partition("Threads:")[2].split()[0] == "65"
        stdout, stderr, _ = attached.communicate(b"\n", most_bytes=1000)
    assert (stdout, stderr) == (b"36\n", b"")


@pytest.mark.alone
@pytest.mark.attack(70, 78)
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("victim", ["monitor", "broker", "caller"])
def test_whoever_is_killed_no_broker_is_left(engine, echo, opened, victim):
    engine.run(argv=["true"])  # starts the spawner
    layout = Layout.default(engine.home)
    before = leaks.quiet(layout.home, layout.run, processes=2)
    busy = f"sock, _ = connect('localhost', {echo}); print(flush=True); sock.recv(9); sock.recv(9)"
    request = RunRequest(argv=argv(busy), allow_hosts=(opened,), removal=Removal.AT_END)
    with engine.spawn(request) as attached:
        inside.read_line(attached.stdout)
        (pid,) = brokers(engine)
        monitor = leaks.parent(pid)
        assert leaks.command(monitor).startswith(b"cellblock-monitor")
        if victim == "caller":
            attached.close()
        else:
            os.kill(monitor if victim == "monitor" else pid, signal.SIGKILL)
        if victim == "broker":  # its connection ends, and the command with that
            assert attached.wait(10).exit_code == 0
        assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert leaks.orphans() & {pid, monitor} == set()
    after = leaks.quiet(layout.home, layout.run, processes=2)
    # The name of a killed monitor's container is given back by a sweep a minute later.
    forgiven = {"store_entries", "store_bytes"} if victim == "monitor" else set()
    assert before.difference(after).keys() <= forgiven


@pytest.mark.alone
@pytest.mark.usefixtures("root")
def test_runs_leave_nothing_behind(engine, echo, opened):
    layout = Layout.default(engine.home)
    engine.run(argv=["true"])
    before = leaks.quiet(layout.home, layout.run, processes=2)
    for status in range(10):
        code = f"print(connect('localhost', {echo})[1]); connect('evil.example', 443)"
        request = RunRequest(argv=argv(code), allow_hosts=(opened,), removal=Removal.AT_END)
        stdout, _ = output(engine, request)
        assert stdout == "HTTP/1.1 200 Connection established\n", status
    with pytest.raises(Exception, match="not found"):
        engine.start(RunRequest(argv=("no-such",), allow_hosts=(opened,), removal=Removal.AT_END))
    after = leaks.settled(before, layout.home, layout.run)
    assert before.difference(after) == {}


def test_other_containers_start_without_any_of_it(engine):
    with engine.spawn(RunRequest(argv=("sleep", "100"), removal=Removal.AT_END)) as attached:
        assert brokers(engine) == []
        attached.kill()
    code = (
        "import sys, cellblock_engine.engine, cellblock_engine.runtime.spawner\n"
        "cellblock_engine.RunRequest()\n"
        "print([name for name in sys.modules if 'cellblock_engine.network' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"[]\n"


def test_what_cannot_be_meant_makes_nothing(engine):
    with pytest.raises(InvalidInput, match="without a network"):
        RunRequest(network="host", allow_hosts=("pypi.org",))
    assert engine.containers() == ()


@pytest.mark.usefixtures("root")
def test_the_command_line(cellblock, echo, opened, monkeypatch):
    code = PRELUDE + f"sock, line = connect('localhost', {echo}); print(line)"
    flags = ("--allow-host", "pypi.org", "--allow-host", opened)
    done = cellblock("run", "--name", "out", *flags, "host", "python3", "-c", code)
    assert (done.returncode, done.stdout) == (0, "HTTP/1.1 200 Connection established\n")
    (shown,) = json.loads(cellblock("inspect", "out").stdout)
    assert shown["allow_hosts"] == ["pypi.org", opened]
    assert cellblock("rm", "out").returncode == 0
    plan = cellblock("run", "--explain", *flags, "host", "true").stdout
    assert f"net: only a loopback, and on it a proxy to pypi.org {opened}\n" in plan
    monkeypatch.setenv("CELLBLOCK_RUN_NETWORK", "host")  # meant for whoever says nothing
    assert cellblock("run", "--explain", *flags, "host", "true").stdout == plan
    wrong = cellblock("run", "--allow-host", "1.2.3.4", "host", "true")
    assert wrong.returncode == 125
    assert len(wrong.stderr.splitlines()) == 1
    assert "write a name, not an address" in wrong.stderr


AS_ORDINARY = """
from cellblock_engine import Engine, Removal, RunRequest
with Engine.open() as engine:
    request = RunRequest(argv={argv!r}, allow_hosts=({opened!r},), removal=Removal.AT_END)
    with engine.spawn(request) as attached:
        print(attached.communicate(None, most_bytes=1000))
"""


def test_an_ordinary_user(rootless_user: OrdinaryUser, echo: int, opened: str) -> None:
    code = f"print(connect('localhost', {echo})[1]); print(connect('localhost', 1)[1][:12])"
    done = rootless_user.run_python(AS_ORDINARY.format(argv=argv(code), opened=opened))
    assert "HTTP/1.1 200 Connection established\\nHTTP/1.1 403\\n" in done.stdout, done.stderr
    assert "cellblock: localhost:1 is not among" in done.stdout


PIP = ("-m", "pip", "--isolated", "--disable-pip-version-check", "download", "--no-deps", "six")
INDEX = ("--index-url", "https://pypi.org/simple", "--dest", "/tmp", "--cert")


@pytest.mark.usefixtures("root")
def test_pip_downloads_from_the_index_that_was_allowed(engine):
    bundle = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    try:
        with socket.create_connection(("pypi.org", 443), 5) as sock:
            ssl.create_default_context(cafile=bundle).wrap_socket(sock, server_hostname="pypi.org")
    except OSError as error:
        pytest.skip(f"needs pypi.org over https ({error})")
    request = RunRequest(
        argv=(sys.executable, *PIP, *INDEX, bundle),
        allow_hosts=("pypi.org", "files.pythonhosted.org"),
        removal=Removal.AT_END,
    )
    stdout, _ = output(engine, request)
    assert "Successfully downloaded six" in stdout
    with engine.spawn(
        RunRequest(argv=request.argv, allow_hosts=("pypi.org",), removal=Removal.AT_END)
    ) as attached:
        _, stderr, end = attached.communicate(None, most_bytes=1 << 20)
    assert end.exit_code == 1
    assert b"files.pythonhosted.org is not among this container's allowed hosts" in stderr
