"""Why a container ended, decided from the kernel's counters, and how that travels.

In ``state.json`` and on sockets a verdict is a small JSON object; callers get the exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import (
    CellblockError,
    CommandNotExecutable,
    CommandNotFound,
    ContainerNotFound,
    DiskFull,
    Killed,
    LimitNotEnforceable,
    OutOfMemory,
    PidsExceeded,
    StartFailed,
    StoreFull,
    TimedOut,
    Unsupported,
    Verdict,
)
from ..linux.cgroups import Counters, Limits

_ERRORS: dict[str, type[CellblockError]] = {
    kind.__name__: kind
    for kind in (
        StartFailed,
        CommandNotFound,
        CommandNotExecutable,
        ContainerNotFound,
        LimitNotEnforceable,
        StoreFull,
        Unsupported,
    )
}


def decide(
    *,
    exit_code: int,
    counters: Callable[[], Counters],
    limits: Limits,
    timed_out_s: float | None,
    killed: str | None,
    full_bytes: int | None,
) -> dict[str, Any] | None:
    """Return the verdict, None where the command ended by itself.

    ``timed_out_s`` is the wall-clock limit if it struck, ``killed`` says who asked for the end,
    ``counters`` reads the counters, where they have a say, and ``full_bytes`` is the size of the
    memory that takes what is written, if that is full. A counter alone is no verdict: a
    command that coped with a refused fork ended by itself.
    """
    if timed_out_s is not None:
        return {"kind": "timeout", "limit_s": timed_out_s}
    if exit_code == 0:
        return None
    counted = counters()
    if counted.oom_kills:
        return {
            "kind": "oom",
            "limit_bytes": limits.memory_bytes,
            "peak_bytes": counted.memory_peak_bytes or 0,
            "own": counted.own_oom,
        }
    verdict: dict[str, Any] | None = None
    if killed is not None:
        verdict = {"kind": "killed", "reason": killed}
    elif counted.pids_refused and limits.pids is not None:
        verdict = {"kind": "pids", "limit": limits.pids, "refused": counted.pids_refused}
    elif full_bytes is not None:
        verdict = {"kind": "full", "limit_bytes": full_bytes}
    return verdict


def verdict_of(plain: dict[str, Any] | None) -> Verdict | None:
    """Return the exception for what :func:`decide` decided."""
    if plain is None:
        return None
    facts = {key: value for key, value in plain.items() if key != "kind"}
    kinds: dict[str, type[Verdict]] = {
        "oom": OutOfMemory,
        "timeout": TimedOut,
        "pids": PidsExceeded,
        "full": DiskFull,
        "killed": Killed,
    }
    return kinds[plain["kind"]](**facts)


def error_of(plain: dict[str, Any] | None) -> CellblockError | None:
    """Return the exception for an error message of a monitor."""
    if plain is None:
        return None
    return _ERRORS.get(str(plain["kind"]), StartFailed)(str(plain["message"]))
