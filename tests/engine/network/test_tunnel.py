"""One connection, with whatever a hostile client sends, and a server on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellblock_engine.network import tunnel
from cellblock_engine.network.allowlist import parse_allowed_host

DENIED = "{} is not among this container's allowed hosts: --allow-host {}"


def ask(request: bytes, *patterns: str) -> tuple[bytes, str | None]:
    """Send a request and nothing more; return the answer and what was told of it."""
    hosts = [parse_allowed_host(pattern) for pattern in patterns]
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(request)
        ours.shutdown(socket.SHUT_WR)
        with theirs:
            told = tunnel.serve(theirs, hosts)
        return b"".join(iter(lambda: ours.recv(1 << 16), b"")), told


def connect_to(place: str) -> bytes:
    return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()


@contextmanager
def served(*patterns: str) -> Iterator[socket.socket]:
    """Give the client's end of a connection that is being served."""
    hosts = [parse_allowed_host(pattern) for pattern in patterns]
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            tunnel.serve(theirs, hosts)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours:
            ours.settimeout(20)
            yield ours
    finally:
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends everything back, and then ends too."""

    def answer(client: socket.socket) -> None:
        with client:
            while data := client.recv(1 << 16):
                client.sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that every name has from now on, and connections to them fail."""
    addresses: list[str] = []

    def answer(host: bytes, port: int, **_: object) -> list[object]:
        assert isinstance(host, bytes)
        kinds = [(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in addresses]
        return [(kind, socket.SOCK_STREAM, 6, "", (address, port)) for kind, address in kinds]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return addresses


def test_what_is_sent_comes_through_in_both_directions_at_once(echo):
    """More than all buffers on the way hold: neither side reads before it has written."""
    data, early = bytes(range(256)) * (64 << 10), b"early" * 10_000
    with served(f"localhost:{echo}/private") as client:
        client.sendall(connect_to(f"localhost:{echo}") + early)
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(1)))
        sender.start()
        received = b"".join(iter(lambda: client.recv(1 << 16), b""))
        sender.join(20)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 Connection established"
    assert body == early + data


def test_names_and_methods_are_read_as_they_are_written(echo):
    with served(f"*.example.org:{echo}", f"LocalHost:{echo}/private") as client:
        client.sendall(f"CONNECT LOCALHOST.:{echo} HTTP/1.0\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    answer, _ = ask(f"connect localhost:{echo} HTTP/1.1\r\n\r\n".encode(), f"localhost:{echo}")
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.attack(19)
@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("evil.example:443", "evil.example"),
        ("pypi.org:80", "pypi.org:80"),
        ("pypi.org.evil.example:443", "pypi.org.evil.example"),
        ("127.0.0.1:443", "127.0.0.1"),
        ("2130706433:443", "2130706433"),
    ],
)
def test_other_hosts_are_denied_with_a_line_that_says_what_to_do(place, named, resolved):
    line = DENIED.format(named, named)
    answer, told = ask(connect_to(place), "pypi.org", "*.pypi.org")
    assert answer.startswith(f"HTTP/1.1 403 {line}\r\n".encode())
    assert answer.endswith(f"\r\n\r\n{line}\n".encode())
    assert told == line


@pytest.mark.parametrize("line", [b"GET http://pypi.org/ HTTP/1.1", b"POST HTTP://a/b HTTP/1.0"])
def test_plain_http_is_denied(line):
    answer, told = ask(line + b"\r\nHost: pypi.org\r\n\r\n", "pypi.org")
    assert answer.startswith(b"HTTP/1.1 403 plain http is not let out of this container: use https")
    assert told is not None


@pytest.mark.attack(19)
@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "private"),
        ("10.1.2.3", "private"),
        ("::1", "private"),
        ("::ffff:127.0.0.1", "private"),
        ("169.254.169.254", "reserved"),
        ("0.0.0.0", "reserved"),
        ("224.0.0.1", "reserved"),
    ],
)
def test_a_name_that_leads_to_an_address_like_that_is_denied(address, kind, resolved):
    resolved.append(address)
    answer, told = ask(connect_to("pypi.org:443"), "pypi.org")
    remedy = ": --allow-host pypi.org:443/private" if kind == "private" else ""
    assert told == f"pypi.org is allowed, but its address {address} is {kind}{remedy}"
    assert answer.startswith(f"HTTP/1.1 403 {told}\r\n".encode())


@pytest.mark.attack(19)
def test_where_private_addresses_may_be_the_clouds_own_still_may_not(resolved):
    resolved.append("169.254.169.254")
    _, told = ask(connect_to("mirror:443"), "mirror/private")
    assert told == "mirror is allowed, but its address 169.254.169.254 is reserved"


@pytest.mark.attack(19)
def test_an_address_of_this_machine_is_denied_whatever_its_range(echo, resolved, monkeypatch):
    monkeypatch.setattr(tunnel, "refusal", lambda _, *, private: None)
    resolved.append("127.0.0.1")
    _, told = ask(connect_to(f"pypi.org:{echo}"), f"pypi.org:{echo}")
    assert told is not None
    assert "its address 127.0.0.1 is this machine's own: " in told


def test_of_several_addresses_one_that_may_be_reached_is_taken(echo, resolved):
    resolved += ["169.254.169.254", "127.0.0.2", "127.0.0.1"]
    with served(f"mirror:{echo}/private") as client:
        client.sendall(connect_to(f"mirror:{echo}"))
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_who_cannot_be_reached_is_no_denial(resolved, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    resolved.append("127.0.0.1")
    answer, told = ask(connect_to(f"mirror:{port}"), f"mirror:{port}/private")
    assert answer.startswith(b"HTTP/1.1 502 mirror cannot be reached: Connection refused\r\n")
    assert told is None

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    answer, told = ask(connect_to("pypi.org:443"), "pypi.org")
    assert answer.startswith(b"HTTP/1.1 502 pypi.org was not found: Name or service not known\r\n")
    assert told is None


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"", 400),
        (b"CONNECT pypi.org:443 HTTP/1.1\r\n", 400),
        (b"CONNECT pypi.org:443 HTTP/1.1\n\n", 400),
        (b"CONNECT pypi.org HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT  pypi.org:443 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT pypi.org:443 HTTP/2.0\r\n\r\n", 400),
        (b"CONNECT pypi.org\0:443 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT pypi.org:443\xff HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT pypi.org:443 HTTP/1.1\r\n" + b"A: b\r\n" * 2000, 431),
        (b"C" * 8193, 431),
    ],
)
def test_what_is_no_request_is_answered_so(request_, status):
    answer, told = ask(request_, "pypi.org")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert told is None


def test_a_head_that_never_ends_does(monkeypatch):
    monkeypatch.setattr(tunnel, "_HEAD_PATIENCE_S", 0.3)
    begun = time.monotonic()
    with served("pypi.org") as client:
        for _ in range(50):
            try:
                client.sendall(b"x")
            except OSError:
                break
            time.sleep(0.05)
    assert time.monotonic() - begun < 2


def test_a_tunnel_without_traffic_ends(echo, monkeypatch):
    monkeypatch.setattr(tunnel, "_IDLE_S", 0.3)
    with served(f"localhost:{echo}/private") as client:
        client.sendall(connect_to(f"localhost:{echo}"))
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert client.recv(100) == b""


LINE = st.lists(
    st.sampled_from(
        (
            *("CONNECT", "GET", " ", "  ", "http://", "pypi.org", ":443", ":", "\r\n", "\r\n\r\n"),
            *("HTTP/1.1", "HTTP/1.0", "\t", "%00", "\0", "@", "127.0.0.1", "[::1]", "é", "*", "/"),
        )
    ),
    max_size=30,
).map(lambda words: "".join(words).encode())


@given(st.binary(max_size=9000) | LINE | LINE.map(lambda line: b"CONNECT " + line + b"\r\n\r\n"))
def test_garbage_is_answered_in_one_line_and_leads_nowhere(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("something was resolved"))
        answer, told = ask(data, "allowed.example", "*.allowed.example")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 4")
    assert head.count(b"\r\n") == 3
    assert body.count(b"\n") == 1
    assert head.isascii()
    assert told is None or told.isprintable()
