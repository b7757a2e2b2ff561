"""The caller's way to the spawner, which it starts when there is none.

The listening socket is made by the caller and inherited by the spawner, so that a connection can
be made at once and simply waits for the spawner to accept it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..layout import Layout
from ..linux import cgroups
from ..private import make_runtime_directory
from . import wire
from .spec import DELEGATED, PROTOCOL, UNASKED, StartSpec, dump

_SCRIPT = Path(__file__).with_name("spawn.py")
_ENGINE_PARENT = Path(__file__).parents[2]
_PATIENCE_S = 40.0
_MOST_LOG_BYTES = 1 << 20
_MOST_TOLD_BYTES = 4000


class Launch(NamedTuple):
    """The connection on which a container's monitor reports; whether its spawner is new."""

    sock: socket.socket
    started_spawner: bool


def launch(layout: Layout, spec: StartSpec, streams: list[tuple[str, int]]) -> Launch:
    """Start a container and return the connection on which its monitor reports.

    ``streams`` are ``stdin``, ``stdout``, ``stderr`` and ``channel`` descriptors for the first
    command; they stay the caller's. Raises OSError, StartFailed.
    """
    pidfd = os.pidfd_open(os.getpid())
    try:
        named = [("client", pidfd), *streams]
        request = {"start": dump(spec), "fds": [name for name, _ in named]}
        fds = [fd for _, fd in named]
        try:
            return _request(layout, request, fds)
        except (BrokenPipeError, ConnectionResetError):
            # The spawner died after it was connected to. What could not be sent was not begun.
            return _request(layout, request, fds)
    finally:
        os.close(pidfd)


def dismiss(layout: Layout) -> None:
    """Let the spawner leave as soon as its containers have ended; the next start starts another."""
    _dismiss(layout, [layout.spawner_socket(PROTOCOL)])


def dismiss_all(layout: Layout) -> None:
    """Let the spawners of all versions leave, as :func:`dismiss` does."""
    _dismiss(layout, list(layout.run.glob(layout.spawner_socket("*").name)))


def _dismiss(layout: Layout, sockets: list[Path]) -> None:
    try:
        lock = os.open(layout.spawner_lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # Not between another caller's start of a spawner and its connection to it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in sockets:
            # It looks whether it can still be reached when a connection ends: after the unlink.
            with (
                suppress(FileNotFoundError, ConnectionRefusedError),
                _connect_to(os.fspath(path)),
            ):
                path.unlink()
    finally:
        os.close(lock)


def _request(layout: Layout, request: dict[str, Any], fds: list[int]) -> Launch:
    launched = _connect(layout)
    try:
        wire.send(launched.sock, request, fds)
    except BaseException:
        launched.sock.close()
        raise
    return launched


def _connect(layout: Layout) -> Launch:
    path = os.fspath(layout.spawner_socket(PROTOCOL))
    try:
        return Launch(_connect_to(path), started_spawner=False)
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    make_runtime_directory(layout.run)
    lock = os.open(layout.spawner_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return Launch(_connect_to(path), started_spawner=False)  # somebody else was first
        except (FileNotFoundError, ConnectionRefusedError):
            _start(layout, path)
            return Launch(_connect_to(path), started_spawner=True)
    finally:
        os.close(lock)


def _connect_to(path: str) -> socket.socket:
    return wire.connect(path, timeout_s=_PATIENCE_S)


def _start(layout: Layout, path: str) -> None:
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(256)
        number = listener.fileno()
        # Told, as it may be dismissed, and the path be another's, before it can look.
        inode = Path(path).stat().st_ino
        places = (layout.containers, layout.names, layout.ids, layout.spawner_lock)
        numbers = (str(inode), str(number))
        with _open_log(layout.run / "spawner.log") as log:
            argv: list[str | os.PathLike[str]]
            argv = [sys.executable, "-I", "-S", _SCRIPT, _ENGINE_PARENT, *places, *numbers]
            with subprocess.Popen(
                argv,
                env={},
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[number],
                start_new_session=True,
            ) as process:
                # A line, as its end of file may be kept from it by a fork of the caller's.
                process.communicate(_ask_for_groups(process.pid, layout.run.name) + b"\n")
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, argv)


def _ask_for_groups(pid: int, store: str) -> bytes:
    """Have systemd give the new spawner a scope where it gives groups; return what came of it."""
    given = cgroups.discover(os.getpid())
    if not isinstance(given, cgroups.Delegable):
        return UNASKED.encode()
    from . import delegation  # noqa: PLC0415 - most starts find a spawner

    try:
        delegation.delegate(given, pid, store)
    except delegation.Undelegated as reason:
        return str(reason).encode()[:_MOST_TOLD_BYTES]
    return DELEGATED.encode()


def _open_log(path: Path) -> BinaryIO:
    """Return the file for the last words of spawners and monitors; a long one makes way."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > _MOST_LOG_BYTES:
            path.replace(path.with_name("spawner.log.1"))
    return path.open("ab")
