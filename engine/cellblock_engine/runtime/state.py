"""What a container's directory says of its present, and whether its monitor lives.

``state.json`` is written by the monitor alone and replaced atomically. ``lock`` is flocked by
the monitor for as long as it lives, so a state that says "running" beside a free lock is a
container whose monitor was killed. What must then be undone is noted in the lock's own file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..linux.processes import is_alive

Standing = Literal["live", "dead", "new"]

MONITOR_KILLED = "its monitor process was killed"

_STATUSES = ("created", "running", "exited")
_STATE = "state.json"
_LOCK = "lock"
_CALLER = "caller "
_MOST_NOTED = 1 << 16
_ATTEMPTS = 50
_ATTEMPT_S = 0.01


@dataclass(frozen=True)
class State:
    """Times are seconds since the epoch; ``pid`` is the first command's, as the host counts.

    ``verdict`` is as :mod:`.verdicts` makes it.
    """

    status: Literal["created", "running", "exited"] = "created"
    pid: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    verdict: dict[str, Any] | None = None


def write(directory: str, state: State) -> None:
    """Replace the state; readers see the old or the new one.

    On a full disk it is written over the old one, which needs no space.
    """
    path, draft = f"{directory}/{_STATE}", f"{directory}/.{_STATE}"
    text = json.dumps(vars(state))
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(draft, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with open(path, "r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()


def read(directory: str) -> State:
    """Return the state; one that claims to run without a living monitor has exited.

    So has one whose record is damaged, as after a loss of power.
    """
    live = is_live(directory)
    try:
        with open(f"{directory}/{_STATE}", encoding="utf-8") as file:
            plain = json.load(file)
        _STATUSES.index(plain["status"])  # ValueError for what is none
        # An older version wrote fewer fields, a newer one may have written more.
        state = State(**{name: plain[name] for name in State.__dataclass_fields__.keys() & plain})
    except FileNotFoundError:
        return State()
    except (ValueError, TypeError, KeyError):
        return _lost(State(), "its record is damaged")
    if state.status == "running" and not live:
        return _lost(state, MONITOR_KILLED)
    return state


def is_recorded(directory: str) -> bool:
    """Tell whether there is a state at all: a container has none until it runs or is kept."""
    return os.path.exists(f"{directory}/{_STATE}")


def _lost(state: State, reason: str) -> State:
    verdict = {"kind": "killed", "reason": reason}
    return replace(state, status="exited", pid=None, exit_code=137, verdict=verdict)


def hold_lock(directory: str) -> int:
    """Take the monitor's lock and return its descriptor. Raises BlockingIOError if it is held.

    Somebody who looks holds it shared for a moment, so one refusal is not the last word.
    """
    fd = os.open(f"{directory}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempts_left in range(_ATTEMPTS, -1, -1):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not attempts_left:
                os.close(fd)
                raise
            time.sleep(_ATTEMPT_S)
    return fd


def make_lock(directory: str) -> None:
    """Make the lock of a container that no monitor has taken yet: it can then be held off too.

    Raises FileNotFoundError.
    """
    os.close(os.open(f"{directory}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


@dataclass
class Notes:
    """What the lock file says to whoever finds that the monitor was killed.

    ``cgroups`` are to be removed. Without ``caller`` (:func:`..linux.processes.identity`) the
    container is an abandoned one, until the command has ended.
    """

    lock: int
    cgroups: tuple[str, ...]
    caller: str | None

    def __post_init__(self) -> None:
        """Write them down."""
        caller = () if self.caller is None else (f"{_CALLER}{self.caller}",)
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, "\n".join((*self.cgroups, *caller)).encode(), 0)

    def caller_is_gone(self) -> bool:
        """Tell whether there was a caller to abandon the container, and it has."""
        return self.caller is not None and not is_alive(self.caller)

    def forget_caller(self) -> None:
        """Nobody can abandon it any more."""
        self.caller = None
        self.__post_init__()


def noted_cgroups(directory: str) -> tuple[str, ...]:
    """Return the noted cgroups."""
    return tuple(line for line in _noted(directory) if not line.startswith(_CALLER))


def noted_caller(directory: str) -> str | None:
    """Return the noted caller."""
    callers = (line for line in _noted(directory) if line.startswith(_CALLER))
    return next(callers, "").removeprefix(_CALLER) or None


def _noted(directory: str) -> list[str]:
    try:
        with open(f"{directory}/{_LOCK}", encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_NOTED).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_live(directory: str) -> bool:
    """Tell whether a monitor holds the container."""
    with held_off(directory) as standing:
        return standing == "live"


@contextmanager
def held_off(directory: str) -> Iterator[Standing]:
    """Keep monitors from taking a dead container while the block runs; tell how it stands.

    "new" is one that no monitor has taken yet, and that any may take meanwhile.
    """
    try:
        fd = os.open(f"{directory}/{_LOCK}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        fd = -1
    try:
        yield _standing(fd)
    finally:
        if fd >= 0:
            os.close(fd)


def _standing(fd: int) -> Standing:
    try:
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "live"
    return "dead" if fd >= 0 else "new"
