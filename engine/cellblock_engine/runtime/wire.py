"""Messages between caller, spawner, monitor and init: one JSON object and some descriptors each.

They travel on unix SEQPACKET sockets, so that a message arrives whole or not at all. A kernel
socket buffer refuses packets of a few hundred kilobytes, so a long message goes in a memfd that
is sent in its place; descriptors beyond what one packet carries (SCM_MAX_FD, 253) follow in
packets of their own.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..errors import StartFailed

_SHORT = 60_000
_LONGEST = 16 << 20
_FDS_PER_PACKET = 250
_MOST_FDS = 4096


class Disconnected(ConnectionError):
    """The other side closed its end, or died."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def connect(path: str, *, timeout_s: float | None = None) -> socket.socket:
    """Return a connection to who listens at ``path``, with this time-out in seconds.

    Raises StartFailed for a listener of another user, which would get our streams and be
    believed, FileNotFoundError and ConnectionRefusedError where there is none, TimeoutError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(timeout_s)
        sock.connect(path)
        _check_peer(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message. The descriptors stay open here. Raises OSError (EPIPE when it is gone)."""
    body = json.dumps(message, separators=(",", ":")).encode()
    first, rest = list(fds[:_FDS_PER_PACKET]), fds[_FDS_PER_PACKET:]
    head = {"long": len(body) > _SHORT, "more": len(rest)}
    memfd = -1
    try:
        if head["long"]:
            memfd = os.memfd_create("message", os.MFD_CLOEXEC)
            with os.fdopen(os.dup(memfd), "wb") as file:
                file.write(body)
            first.insert(0, memfd)
            body = b""
        _send_packet(sock, json.dumps(head).encode() + b"\n" + body, first)
    finally:
        if memfd >= 0:
            os.close(memfd)
    for start in range(0, len(rest), _FDS_PER_PACKET):
        _send_packet(sock, b"+", rest[start : start + _FDS_PER_PACKET])


def tell(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send to somebody who may be gone; that is their own affair."""
    with suppress(OSError):
        send(sock, message)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and its descriptors (close-on-exec), which the caller owns.

    Raises Disconnected at the end, ValueError for what is not a message, and TimeoutError.
    """
    packet, fds = _receive_packet(sock)
    try:
        head_line, _, body = packet.partition(b"\n")
        head: dict[str, int] = json.loads(head_line)
        if head["long"]:
            body = _read_long(fds.pop(0))
        _receive_rest(sock, fds, min(head["more"], _MOST_FDS))
        message: dict[str, Any] = json.loads(body)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return message, fds


def _check_peer(sock: socket.socket, path: str) -> None:
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.geteuid():
        raise StartFailed(f"{path} belongs to user {uid}: remove it")


def _read_long(memfd: int) -> bytes:
    try:
        return os.pread(memfd, _LONGEST, 0)
    finally:
        os.close(memfd)


def _receive_rest(sock: socket.socket, fds: list[int], count: int) -> None:
    expected = len(fds) + count
    while len(fds) < expected:
        _, more = _receive_packet(sock)
        if not more:
            raise ValueError("descriptors were announced that did not come")
        fds += more


def _send_packet(sock: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([packet], ancillary)


def _receive_packet(sock: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    packet, ancillary, _, _ = sock.recvmsg(
        _SHORT + 1024, socket.CMSG_SPACE(253 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not packet:
        for fd in fds:
            os.close(fd)
        raise Disconnected("the other side is gone")
    return packet, list(fds)
