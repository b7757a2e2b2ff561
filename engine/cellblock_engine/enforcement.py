"""What holds a container to its limits: a control group or, where that is wanted, less.

A limit that no control group can enforce here is refused by name. With ``mode="best-effort"``
something weaker stands in for some: what a process is held to by itself (setrlimit(2),
sched_setaffinity(2)). Which, is decided here alone, when a container is made, and it stays so.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path

from .errors import InvalidInput, LimitNotEnforceable
from .limits import Limits
from .linux import cgroups
from .runtime.spec import StandIns
from .units import format_bytes

_CHANGEABLE = " (sched_setaffinity), which a program inside can change"
REPLACEABLE = ("memory", "pids", "cpus", "cpuset-cpus")


def kernel_limits(limits: Limits) -> cgroups.Limits:
    """Return the limits as control groups take them. Raises InvalidInput for what is no disk."""
    rates = {
        name: {_disk(path): rate for path, rate in by_path.items()}
        for name, by_path in limits.device_rates.items()
    }
    return cgroups.Limits(
        limits.memory_bytes,
        limits.cpus,
        limits.pids,
        limits.memory_swap_bytes,
        limits.cpuset_cpus,
        limits.cpu_shares,
        limits.memory_reservation_bytes,
        limits.blkio_weight,
        **rates,
    )


def decide(limits: Limits) -> tuple[str, ...]:
    """Return the names of those limits that something weaker is to stand in for.

    None without ``mode="best-effort"``. Raises LimitNotEnforceable for limits that cannot be had
    for this process's containers, InvalidInput.
    """
    refuse_missing_processors(limits)
    if not limits:
        return ()
    wanted = kernel_limits(limits)
    missing = cgroups.discover(os.getpid()).missing(wanted.named())
    replaced = tuple(name for name in missing if name in REPLACEABLE)
    best_effort = limits.mode == "best-effort"
    reason = cgroups.refusal(wanted.without(replaced if best_effort else ()), missing)
    if reason is None:
        if "cpuset-cpus" in replaced:
            _refuse_other_processors(limits)
        return replaced
    if best_effort:
        reason += "; nothing weaker can stand in for it"
    elif len(replaced) == len(missing):
        reason += ", or see what --limits=best-effort can do"
    raise LimitNotEnforceable(reason)


def refuse_unenforceable(limits: Limits, replaced: Collection[str] = ()) -> None:
    """Raise LimitNotEnforceable for limits that cannot be had, but for those ``replaced``."""
    refuse_missing_processors(limits)
    wanted = kernel_limits(limits).without(replaced)
    if wanted.named() and (reason := cgroups.discover(os.getpid()).refused(wanted)):
        raise LimitNotEnforceable(reason)


def refuse_missing_processors(limits: Limits) -> None:
    """Raise LimitNotEnforceable for more processors than this machine has."""
    processors = os.cpu_count()
    if limits.cpus is not None and processors is not None and limits.cpus > processors:
        raise LimitNotEnforceable(
            f"cpus limit {limits.cpus:g} is more than the {processors} "
            f"processor{'s' * (processors != 1)} of this machine"
        )


def changed_limits(limits: Limits, given: Limits) -> Limits:
    """Return ``limits`` with what is ``given`` over them. Raises InvalidInput."""
    set_now = {
        each.name: value
        for each in fields(given)
        if each.name != "mode" and (value := getattr(given, each.name)) is not None
    }
    return replace(limits, **set_now)


def stand_ins(limits: Limits, replaced: Collection[str], identifier: str) -> StandIns:
    """Return what stands in for the limits that are ``replaced``, for the container of this id.

    Raises LimitNotEnforceable where the processors it was limited to are not to be had any more.
    """
    if "cpuset-cpus" in replaced:
        _refuse_other_processors(limits)
    return StandIns(
        limits.memory_bytes if "memory" in replaced else None,
        limits.pids if "pids" in replaced else None,
        _processors(limits, replaced, identifier),
    )


def told(limits: Limits, replaced: Collection[str]) -> Mapping[str, str]:
    """Return in words what stands in for limits, by their names."""
    count = math.ceil(limits.cpus or 0)
    words = {
        "memory": f"{format_bytes(limits.memory_bytes or 0)} of addresses for each process by "
        "itself (RLIMIT_AS)",
        "pids": f"{limits.pids} for each user inside (RLIMIT_NPROC)",
        "cpus": f"{count} processor{'s' * (count != 1)} to run on{_CHANGEABLE}",
        "cpuset-cpus": f"processors {limits.cpuset_cpus}{_CHANGEABLE}",
    }
    return {name: words[name] for name in replaced}


def _processors(limits: Limits, replaced: Collection[str], identifier: str) -> tuple[int, ...]:
    """Return the processors of a container, none where it is not held to any so.

    Those of containers that have a part of the machine's begin at different ones.
    """
    if not {"cpus", "cpuset-cpus"} & set(replaced):
        return ()
    usable = sorted(os.sched_getaffinity(0))
    if limits.cpuset_cpus is not None:
        usable = sorted(cgroups.listed(limits.cpuset_cpus).intersection(usable))
    if limits.cpus is None or "cpus" not in replaced or not usable:
        return tuple(usable)
    first = int(identifier[:8], 16) % len(usable)
    return tuple(sorted((usable[first:] + usable[:first])[: math.ceil(limits.cpus)]))


def _refuse_other_processors(limits: Limits) -> None:
    if not _processors(limits, ("cpuset-cpus",), "0"):
        usable = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise LimitNotEnforceable(
            f"cannot limit to cpuset-cpus {limits.cpuset_cpus}: the processors to be had are "
            f"{usable}"
        )


def _disk(path: str) -> str:
    """Return a disk's numbers. Raises InvalidInput for anything else, a partition included."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise InvalidInput(f"cannot limit the traffic of {path}: {error.strerror}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidInput(f"cannot limit the traffic of {path}: it is no disk, as /dev/sda is")
    numbers = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if Path(f"/sys/dev/block/{numbers}/partition").exists():
        raise InvalidInput(f"cannot limit the traffic of {path}: it is a part; name the whole disk")
    return numbers
