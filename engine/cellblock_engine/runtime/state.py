"""What a container's directory says of its present, and whether its monitor lives.

``state.json`` is written by the monitor alone and replaced atomically. ``lock`` is flocked by
the monitor for as long as it lives, so a state that says "running" beside a free lock is a
container whose monitor was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

MONITOR_KILLED = "its monitor process was killed"

_STATE = "state.json"
_LOCK = "lock"
_ATTEMPTS = 50
_ATTEMPT_S = 0.01


@dataclass(frozen=True)
class State:
    """Times are seconds since the epoch; ``pid`` is the first command's, as the host counts.

    ``verdict`` and ``error`` are as :mod:`.verdicts` makes them; ``cgroups`` are the
    directories to remove should the monitor not live to do it.
    """

    status: Literal["created", "running", "exited"] = "created"
    pid: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    verdict: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    cgroups: tuple[str, ...] = ()


def write(directory: str, state: State) -> None:
    """Replace the state; readers see the old or the new one."""
    draft = f"{directory}/.{_STATE}"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(vars(state), file)
    os.rename(draft, f"{directory}/{_STATE}")


def read(directory: str) -> State:
    """Return the state; one that claims to run without a living monitor has exited."""
    live = is_live(directory)
    try:
        with open(f"{directory}/{_STATE}", encoding="utf-8") as file:
            plain = json.load(file)
    except FileNotFoundError:
        return State()
    state = State(**{**plain, "cgroups": tuple(plain["cgroups"])})
    if state.status == "running" and not live:
        return replace(
            state,
            status="exited",
            pid=None,
            exit_code=137,
            verdict={"kind": "killed", "reason": MONITOR_KILLED},
        )
    return state


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


def is_live(directory: str) -> bool:
    """Tell whether a monitor holds the container."""
    try:
        fd = os.open(f"{directory}/{_LOCK}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
