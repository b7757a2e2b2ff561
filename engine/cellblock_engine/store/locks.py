"""Advisory locks between processes: flock(2) with deadlines.

A lock belongs to an open file description and goes with its last descriptor, so the death of a
process frees what it held. Nobody waits here without a bound.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from ..errors import Conflict

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05


class Kind(IntEnum):
    """How a lock is held: by many at once, or by one alone."""

    SHARED = fcntl.LOCK_SH
    EXCLUSIVE = fcntl.LOCK_EX


def try_lock(fd: int, kind: Kind) -> bool:
    """Take the lock of ``fd`` if it is free now; tell whether it was."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int, kind: Kind, *, timeout_s: float, what: str) -> None:
    """Take the lock of ``fd``, waiting at most ``timeout_s`` seconds.

    Raises Conflict, naming ``what`` is locked, when others still hold it then.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not try_lock(fd, kind):
        if time.monotonic() >= deadline:
            raise Conflict(
                f"{what} is in use: another process still holds its lock after {timeout_s:g} s; "
                "try again when it is done"
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@contextlib.contextmanager
def locked(path: Path, kind: Kind, *, timeout_s: float, what: str) -> Iterator[None]:
    """Hold the lock of the file ``path``, which is made if need be. Raises Conflict."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise _removed(what) from error
    try:
        lock(fd, kind, timeout_s=timeout_s, what=what)
        if not _is_at(fd, path):
            raise _removed(what)
        yield
    finally:
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _removed(what: str) -> Conflict:
    return Conflict(f"{what} was removed in the meantime: try again")
