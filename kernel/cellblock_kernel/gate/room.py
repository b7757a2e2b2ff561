"""The private directory of one kernel's sockets, and who may see which part of it.

::

    <kernels>/<id>/front-1 ...    the front end's side: only the user's own processes
    <kernels>/<id>/inside/        bound into the container: connection file and the kernel's sockets
    <kernels>/<id>/back/          the same sockets, where the container cannot replace them

What the kernel binds is linked into ``back`` before the gate connects to it: a link made by
``link(2)`` is to the thing itself, so that a symbolic link put there by hostile code is found
out, and cannot lead the gate to another socket of the host.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from cellblock_engine import InvalidInput

from ..errors import KernelNotReady
from .connection import CHANNELS, Connection

INSIDE = "/run/jupyter-kernel"
"""Where the container sees its part."""
PORTS = {name: number for number, name in enumerate(CHANNELS, 1)}
_MAX_SOCKET_PATH = 107  # sun_path, unix(7)
_CONNECTION_FILE = "connection.json"
_PAUSE_S = 0.004


class Room:
    """The directory of one kernel; it outlives restarts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inside = path / "inside"
        self._back = path / "back"

    @classmethod
    def make(cls, kernels: Path) -> Room:
        """Make a new one below ``kernels``. Raises InvalidInput, OSError."""
        kernels.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = cls(kernels / secrets.token_hex(4))
        room.path.mkdir(mode=0o700)
        room._check_length()
        return room

    @property
    def front_ip(self) -> str:
        """The ``ip`` of the front end's connection file."""
        return os.fspath(self.path / "front")

    def furnish(self, key: bytes, kernel_name: str) -> None:
        """Make ready for a kernel: a connection file inside, and no sockets of an earlier one."""
        for part in (self.inside, self._back):
            with suppress(FileNotFoundError):
                shutil.rmtree(part)
            part.mkdir(mode=0o700)
        inner = Connection("ipc", f"{INSIDE}/kernel", PORTS, key, kernel_name=kernel_name)
        inner.write(self.inside / _CONNECTION_FILE)

    @property
    def connection_file(self) -> str:
        """The kernel's connection file, as the container names it."""
        return f"{INSIDE}/{_CONNECTION_FILE}"

    def await_sockets(self, timeout_s: float) -> bool:
        """Return whether the kernel has bound all its sockets within the time; link them."""
        deadline = time.monotonic() + timeout_s
        while not all(self._linked(number) for number in PORTS.values()):
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
        return True

    def back(self, key: bytes) -> Connection:
        """Return the kernel's side as the gate connects to it."""
        return Connection("ipc", os.fspath(self._back / "kernel"), PORTS, key)

    def remove(self) -> None:
        """Remove it, with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _linked(self, number: int) -> bool:
        name = f"kernel-{number}"
        theirs, ours = self.inside / name, self._back / name
        if not ours.exists():
            try:
                os.link(theirs, ours, follow_symlinks=False)
            except FileNotFoundError:
                return False
        if not stat.S_ISSOCK(ours.lstat().st_mode):
            raise KernelNotReady(f"the kernel put something else where its socket {name} belongs")
        return True

    def _check_length(self) -> None:
        longest = os.fspath(self._back / "kernel-5")
        if len(os.fsencode(longest)) > _MAX_SOCKET_PATH:
            self.path.rmdir()
            raise InvalidInput(
                f"{longest} is too long for a socket ({_MAX_SOCKET_PATH} bytes): set "
                "XDG_RUNTIME_DIR to a shorter path"
            )
