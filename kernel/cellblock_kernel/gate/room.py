"""The private directory of one kernel's sockets, and who may see which part of it.

::

    <kernels>/<id>/front-1 ...    the front end's side: only the user's own processes
    <kernels>/<id>/inside/        bound into the container: connection file and the kernel's sockets
    <kernels>/<id>/back/          the same sockets, where the container cannot replace them
    <kernels>/<id>/lock           held by its owner as long as it lives
    <kernels>/<id>/container      the id of the container that was started last
    <kernels>/<id>/record         the cells executed in it, while its kernel is started again

What the kernel binds is linked into ``back`` before the gate connects to it: link(2) links the
thing itself, so that a symbolic link put there by hostile code is found out, and cannot lead the
gate to another socket of the host. There each kernel's have a name of their own: ZeroMQ goes on
connecting to those of a kernel that has ended, and must not come to the next.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from cellblock_engine import CellblockError, ContainerNotFound, Engine, InvalidInput
from cellblock_engine.store.trees import remove_tree  # not for notebooks: no name of the door

from ..errors import KernelNotReady
from .connection import CHANNELS, Connection

INSIDE = "/run/jupyter-kernel"
"""Where the container sees its part."""
PORTS = {name: number for number, name in enumerate(CHANNELS, 1)}
_MAX_SOCKET_PATH = 107  # sun_path, unix(7)
_CONNECTION_FILE = "connection.json"
CONNECTION_INSIDE = f"{INSIDE}/{_CONNECTION_FILE}"
"""A kernel's connection file, as its container names it."""
_FALSE_SOCKET = "the kernel put something else where its socket {} belongs"


class Room:
    """The directory of one kernel; it outlives restarts."""

    def __init__(self, path: Path) -> None:
        """Use what another process has made and owns."""
        self.path = path
        self.inside = path / "inside"
        self._back = path / "back"
        self._kernels = 0
        self._lock: int | None = None

    @classmethod
    def make(cls, kernels: Path) -> Room:
        """Make one below ``kernels`` that goes with this process. Raises InvalidInput, OSError."""
        longest = kernels / "12345678" / "back" / "k12345-5"
        if len(os.fsencode(longest)) > _MAX_SOCKET_PATH:
            raise InvalidInput(
                f"{longest} is too long for a socket ({_MAX_SOCKET_PATH} bytes): set "
                "XDG_RUNTIME_DIR to a shorter path"
            )
        with _locked(kernels / "lock"):
            room = cls(kernels / secrets.token_hex(4))
            room.path.mkdir(mode=0o700)
            room._lock = _try_lock(room.path / "lock")
        return room

    @classmethod
    def found(cls, path: str) -> Room:
        """Return the one there, which goes with this process too once its owner has ended."""
        room = cls(Path(path))
        room._lock = _try_lock(room.path / "lock")
        return room

    @classmethod
    def of(cls, front: Connection) -> Room:
        """Return the one that a front end's sockets are in. Raises InvalidInput, OSError.

        Parts of it are about to be removed: a file of somebody's own must not name another place.
        """
        room = cls(Path(front.ip).parent)
        if front.transport != "ipc" or front.ip != room.front_ip or not room._is_owned():
            raise InvalidInput(
                f"the connection file is at {front.transport}://{front.ip}, which is no directory "
                "of a kernel's sockets: let the kernel manager write its own"
            )
        return room

    @property
    def front_ip(self) -> str:
        """The ``ip`` of the front end's connection file."""
        return os.fspath(self.path / "front")

    @property
    def record(self) -> Path:
        """Where a gate leaves what was executed for the next one."""
        return self.path / "record"

    @property
    def connection_file(self) -> str:
        """The kernel's connection file, as the container names it."""
        return CONNECTION_INSIDE

    def furnish(self, key: bytes, kernel_name: str) -> None:
        """Make ready for a kernel: a connection file inside, and no sockets of an earlier one."""
        for part in (self.inside, self._back):
            remove_tree(part)
            part.mkdir(mode=0o700)
        self._kernels += 1
        inner = Connection("ipc", f"{INSIDE}/kernel", PORTS, key, kernel_name=kernel_name)
        inner.write(self.inside / _CONNECTION_FILE)

    @contextmanager
    def refurnished(self, key: bytes, kernel_name: str) -> Iterator[None]:
        """Furnish it for another kernel meanwhile; the one that is there keeps what it sees.

        What is left by the block stays; where it raises, all is again as it was.
        """
        moved: list[tuple[Path, Path]] = []
        try:
            for part in (self.inside, self._back):
                before = part.with_name(f"{part.name}-before")
                remove_tree(before)
                part.rename(before)  # a mount of it stays one of the same directory
                moved.append((part, before))
            self.furnish(key, kernel_name)
            yield
        except BaseException:
            for part, before in moved:
                remove_tree(part)
                before.rename(part)
            raise
        for _, before in moved:
            remove_tree(before)

    def note(self, container: str) -> None:
        """Remember whose room this is, for a sweep."""
        (self.path / "container").write_text(container, encoding="ascii")

    def has_sockets(self) -> bool:
        """Return whether the kernel has bound all its sockets. Raises KernelNotReady."""
        return all(self._linked(number) for number in PORTS.values())

    def back(self, key: bytes) -> Connection:
        """Return the kernel's side as the gate connects to it."""
        return Connection("ipc", os.fspath(self._back / f"k{self._kernels}"), PORTS, key)

    def remove(self) -> None:
        """Remove it, with everything in it, however the kernel has nested that."""
        with suppress(OSError):
            remove_tree(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.remove()

    def _is_owned(self) -> bool:
        """Return whether somebody holds its lock."""
        if not (self.path / "lock").is_file():
            return False
        if (lock := _try_lock(self.path / "lock")) is not None:
            os.close(lock)
        return lock is None

    def _linked(self, number: int) -> bool:
        name = f"kernel-{number}"
        ours = self._back / f"k{self._kernels}-{number}"
        if not ours.exists():
            try:
                os.link(self.inside / name, ours, follow_symlinks=False)
            except FileNotFoundError:
                return False
            except PermissionError:  # what link(2) says of a directory
                raise KernelNotReady(_FALSE_SOCKET.format(name)) from None
        if not stat.S_ISSOCK(ours.lstat().st_mode):
            raise KernelNotReady(_FALSE_SOCKET.format(name))
        return True


def sweep(kernels: Path, engine: Engine) -> tuple[str, ...]:
    """Remove the rooms whose owners are gone, and their containers; return the rooms' names."""
    swept = []
    with _locked(kernels / "lock"):
        for path in kernels.iterdir():
            try:
                lock = _try_lock(path / "lock")
            except (FileNotFoundError, NotADirectoryError):
                continue  # it goes just now, or is no room
            if lock is None:
                continue
            room = Room(path)
            room._lock = lock  # now this process's own
            with suppress(OSError, CellblockError):
                _remove_container(engine, (path / "container").read_text(encoding="ascii"))
            room.remove()
            swept.append(path.name)
    return tuple(swept)


def _remove_container(engine: Engine, identifier: str) -> None:
    with suppress(ContainerNotFound):
        engine.container(identifier).remove()  # not by force: a monitor ends it in a moment


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _try_lock(path: Path) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
