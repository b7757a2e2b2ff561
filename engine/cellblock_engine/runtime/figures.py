"""The machine's figures as a container's limits make them: what /proc and /sys say inside.

Programs that look there size their pools and caches by it. What is written here stands still:
what is in use at a moment, only the container's control groups tell.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from ..linux.cgroups import Limits, listed

MEMORY = "/proc/meminfo"
PROCESSORS = "/sys/devices/system/cpu/online"
PLACES = frozenset({MEMORY, PROCESSORS})

_AS_THE_MACHINE_HAS_IT = frozenset({"Hugepagesize", "VmallocTotal"})
_KIB = 1024


def places(limits: Limits, *, has_sys: bool) -> tuple[str, ...]:
    """Return the files whose figures the limits change."""
    found = [MEMORY] if limits.memory_bytes is not None else []
    if has_sys and _limits_processors(limits):
        found.append(PROCESSORS)
    return tuple(found)


def figures(place: str, limits: Limits) -> str:
    """Return what such a file says, from what this machine's says now. Raises OSError."""
    with open(place, encoding="utf-8") as file:
        machine = file.read()
    return meminfo(machine, limits) if place == MEMORY else f"{processors(machine, limits)}\n"


def processor_count(limits: Limits) -> int | None:
    """Return how many processors there are inside, None where no limit is set on them."""
    if not _limits_processors(limits):
        return None
    return max(1, len(_usable(range(os.cpu_count() or 1), limits)))


def processors(online: str, limits: Limits) -> str:
    """Return the processors there are inside as cpuset(7) lists them, of those that are online.

    A part of one counts as one. Which they are of the ones it may run on, no limit says: the first.
    """
    return _told(_usable(sorted(listed(online)), limits))


def meminfo(machine: str, limits: Limits) -> str:
    """Return a proc_meminfo(5) of a machine with as much memory as the limit, all of it free.

    What counts how the machine's memory is used is 0.
    """
    present = _amounts(machine)
    total = min((limits.memory_bytes or 0) // _KIB, present["MemTotal"])
    swap = _swap_kib(limits, present.get("SwapTotal", 0))
    told = {
        **dict.fromkeys(("MemTotal", "MemFree", "MemAvailable"), total),
        **dict.fromkeys(("SwapTotal", "SwapFree"), swap),
        "CommitLimit": total + swap,
    }
    lines = {line.partition(":")[0]: line for line in machine.splitlines()}
    for name in present.keys() - _AS_THE_MACHINE_HAS_IT:
        lines[name] = f"{name + ':':<15} {told.get(name, 0):>8} kB"
    return "\n".join([*lines.values(), ""])


def _limits_processors(limits: Limits) -> bool:
    return limits.cpus is not None or limits.cpuset_cpus is not None


def _swap_kib(limits: Limits, machine_kib: int) -> int:
    if not limits.swaps or limits.memory_swap_bytes is None:
        return 0
    if limits.memory_swap_bytes < 0:
        return machine_kib
    return min(machine_kib, (limits.memory_swap_bytes - (limits.memory_bytes or 0)) // _KIB)


def _amounts(machine: str) -> dict[str, int]:
    pairs = (line.partition(":")[::2] for line in machine.splitlines() if line.endswith(" kB"))
    return {name: int(amount.split()[0]) for name, amount in pairs}


def _usable(online: Sequence[int], limits: Limits) -> Sequence[int]:
    if limits.cpuset_cpus is not None:
        chosen = listed(limits.cpuset_cpus)
        online = [number for number in online if number in chosen]
    return online if limits.cpus is None else online[: math.ceil(limits.cpus)]


def _told(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
