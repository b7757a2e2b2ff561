"""The caller's way to the spawner, which it starts when there is none.

The listening socket is made by the caller and inherited by the spawner, so that a connection can
be made at once and simply waits for the spawner to accept it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from ..errors import StartFailed
from ..layout import Layout
from . import wire
from .spec import PROTOCOL, StartSpec, dump

_SCRIPT = Path(__file__).with_name("spawn.py")
_ENGINE_PARENT = Path(__file__).parents[2]
_PATIENCE_S = 40.0


def launch(layout: Layout, spec: StartSpec, streams: list[tuple[str, int]]) -> socket.socket:
    """Start a container and return the connection on which its monitor reports.

    ``streams`` are ``stdin``, ``stdout``, ``stderr`` and ``channel`` descriptors for the first
    command; they stay the caller's. Raises OSError, StartFailed.
    """
    pidfd = os.pidfd_open(os.getpid())
    try:
        named = [("client", pidfd), *streams]
        request = {"start": dump(spec), "fds": [name for name, _ in named]}
        sock = _connect(layout)
        try:
            wire.send(sock, request, [fd for _, fd in named])
        except BaseException:
            sock.close()
            raise
    finally:
        os.close(pidfd)
    return sock


def dismiss(layout: Layout) -> None:
    """Let the spawner leave as soon as its containers have ended; the next start starts another."""
    path = layout.spawner_socket(PROTOCOL)
    try:
        lock = os.open(layout.spawner_lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # Not between another caller's start of a spawner and its connection to it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # It looks whether it can still be reached when a connection ends: after the unlink.
        with _connect_to(os.fspath(path)):
            path.unlink()
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    finally:
        os.close(lock)


def _connect(layout: Layout) -> socket.socket:
    path = os.fspath(layout.spawner_socket(PROTOCOL))
    try:
        return _connect_to(path)
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    layout.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(layout.run)
    lock = os.open(layout.spawner_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _connect_to(path)  # somebody else was first
        except (FileNotFoundError, ConnectionRefusedError):
            _start(layout, path)
            return _connect_to(path)
    finally:
        os.close(lock)


def _connect_to(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(_PATIENCE_S)
        sock.connect(path)
        _check_peer(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


def _start(layout: Layout, path: str) -> None:
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(256)
        number = listener.fileno()
        # Told, as it may be dismissed, and the path be another's, before it can look.
        inode = Path(path).stat().st_ino
        places = (layout.containers, layout.names, layout.spawner_lock, str(inode), str(number))
        with (layout.run / "spawner.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-I", "-S", _SCRIPT, _ENGINE_PARENT, *places],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[number],
                start_new_session=True,
                check=True,
            )


def _check_peer(sock: socket.socket, path: str) -> None:
    """Refuse a spawner of another user: it would be given our streams and obeyed."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.geteuid():
        raise StartFailed(f"{path} belongs to user {uid}: remove it")


def _check_private(directory: Path) -> None:
    """Refuse a runtime directory that somebody else made ready for us."""
    status = directory.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StartFailed(
            f"{directory} is not private to user {os.geteuid()}: remove it, or set its owner and "
            "mode 0700"
        )
