"""One connection out of an off-line container: a request read, checked, answered and carried out.

What comes in is hostile. The head is bounded in bytes and time, only ``CONNECT`` to a name that was
allowed is served, and the address connected to is the one that was checked. What goes through
the tunnel is not looked at. RFC 9110, section 9.3.6.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

from .addresses import refusal
from .allowlist import AllowedHost, parse_target

_LONGEST_HEAD = 8 << 10
_HEAD_PATIENCE_S = 10.0
_CONNECT_PATIENCE_S = 10.0
_IDLE_S = 300.0
_FAREWELL_S = 1.0
_MOST_ADDRESSES = 8
_CHUNK = 1 << 16

_CONNECT = re.compile(r"CONNECT ([^ ]+) HTTP/1\.[01]")
_PLAIN = re.compile(r"[A-Z]+ http://[^ ]+ HTTP/1\.[01]", re.IGNORECASE)
_DISCARD_PORT = 9  # nothing is sent there


class Refused(Exception):
    """A request that is not carried out: an HTTP status and one line of ASCII saying why."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line


def serve(client: socket.socket, hosts: Iterable[AllowedHost]) -> str | None:
    """Serve one connection to its end; return the line with which it was denied, if it was.

    What fails on either side, or takes too long, ends it. Closing ``client`` is the caller's.
    """
    try:
        head, early = _read_head(client)
        host, port, rule = _allowed(head, hosts)
        with _connect(host, port, rule) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _splice(client, server, early)
    except Refused as refused:
        with suppress(OSError):
            _answer(client, refused)
        return refused.line if refused.status == 403 else None
    except OSError:
        return None
    return None


def _read_head(client: socket.socket) -> tuple[str, bytes]:
    """Return the request's first line, and what came after its head. Raises Refused, OSError."""
    deadline = time.monotonic() + _HEAD_PATIENCE_S
    data = bytearray()
    while b"\r\n\r\n" not in data:
        if len(data) == _LONGEST_HEAD:
            raise Refused(431, "the head of the request is too long")
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Refused(408, "the request took too long")
        client.settimeout(left_s)
        chunk = client.recv(_LONGEST_HEAD - len(data))
        if not chunk:
            raise Refused(400, "the request is cut short")
        data += chunk
    client.settimeout(_CONNECT_PATIENCE_S)
    head, _, early = bytes(data).partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0].decode("ascii", "replace"), early


def _allowed(line: str, hosts: Iterable[AllowedHost]) -> tuple[str, int, AllowedHost]:
    """Return the host and port that the request line names, and what allows them."""
    if _PLAIN.fullmatch(line):
        raise Refused(403, "plain http is not let out of this container: use https")
    found = _CONNECT.fullmatch(line)
    target = parse_target(found[1]) if found is not None else None
    if target is None:
        raise Refused(400, "the request is not understood: CONNECT NAME:PORT is")
    host, port = target
    for rule in hosts:
        if rule.admits(host, port):
            return host, port, rule
    place = host if port == AllowedHost(host).port else f"{host}:{port}"
    raise Refused(403, f"{place} is not among this container's allowed hosts: --allow-host {place}")


def _connect(host: str, port: int, rule: AllowedHost) -> socket.socket:
    """Return a connection to the first address that may be, and can be, connected to."""
    try:
        # Bytes, as a name in a str would be encoded by a codec that is not loaded yet.
        found = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Refused(502, f"{host} was not found: {_ascii(error)}") from error
    denied, failed = "it has no address", None
    for family, _, _, _, address in found[:_MOST_ADDRESSES]:
        place = str(address[0])
        kind = refusal(place, private=rule.private)
        if kind is None and not rule.private and _is_own(family, place):
            kind = "this machine's own"
        if kind is not None:
            denied = f"its address {place} is {kind}"
            denied += f": --allow-host {host}:{port}/private" if kind != "reserved" else ""
            continue
        server = socket.socket(family, socket.SOCK_STREAM)
        try:
            server.settimeout(_CONNECT_PATIENCE_S)
            server.connect(address)
        except OSError as error:
            server.close()
            failed = error
            continue
        return server
    if failed is not None:
        raise Refused(502, f"{host} cannot be reached: {_ascii(failed)}")
    raise Refused(403, f"{host} is allowed, but {denied}")


def _is_own(family: int, address: str) -> bool:
    """Tell an address of this machine: from nowhere else is it reached from the same address."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, _DISCARD_PORT))
        except OSError:
            return False  # no way there, so a connection fails too
        return bool(probe.getsockname()[0] == address)


class _Way:
    """One direction of a tunnel."""

    def __init__(self, source: socket.socket, sink: socket.socket, pending: bytes = b"") -> None:
        self.source, self.sink, self.pending = source, sink, pending
        self.is_done = False

    def flush(self) -> None:
        self.pending = self.pending[self.sink.send(self.pending) :]

    def fill(self) -> None:
        self.pending = self.source.recv(_CHUNK)
        if not self.pending:
            self.is_done = True
            self.sink.shutdown(socket.SHUT_WR)


def _splice(client: socket.socket, server: socket.socket, early: bytes) -> None:
    """Pass bytes both ways until both have ended, or nothing has come for long."""
    ways = (_Way(client, server, early), _Way(server, client))
    for sock in (client, server):
        sock.settimeout(0)
    while left := [way for way in ways if not way.is_done]:
        sources = [way.source for way in left if not way.pending]
        sinks = [way.sink for way in left if way.pending]
        readable, writable, _ = select.select(sources, sinks, [], _IDLE_S)
        if not readable and not writable:
            return
        for way in left:
            with suppress(BlockingIOError):
                if way.pending and way.sink in writable:
                    way.flush()
                elif not way.pending and way.source in readable:
                    way.fill()


def _answer(client: socket.socket, refused: Refused) -> None:
    """Send the refusal; clients show the reason, some the text."""
    text = f"{refused.line}\n"
    client.settimeout(_FAREWELL_S)
    client.sendall(
        f"HTTP/1.1 {refused.status} {refused.line}\r\n"
        f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\n"
        f"Connection: close\r\n\r\n{text}".encode("ascii", "replace")
    )
    client.shutdown(socket.SHUT_WR)
    # A close with something unread would take the answer away from the client again.
    deadline = time.monotonic() + _FAREWELL_S
    while client.recv(_CHUNK) and time.monotonic() < deadline:
        pass


def _ascii(error: OSError) -> str:
    return (error.strerror or "it took too long").encode("ascii", "replace").decode()
