"""Limits on processors: the numbers that are written for them, on v1 and on v2.

Documentation/scheduler/sched-bwc.rst, cgroup-v2.rst (CPU Interface Files), cpuset(7).
"""

from __future__ import annotations

PERIOD_US = 100_000
_QUOTA_MIN_US = 1_000  # the kernel's min_cfs_quota_period
_WEIGHTS = (1, 10000)


def quota_us(cpus: float) -> int:
    """Return the processor time of a period that so many processors are."""
    return max(_QUOTA_MIN_US, round(cpus * PERIOD_US))


def weight(shares: int) -> int:
    """Return cpu.weight for cpu.shares of v1, as the kernel has them: 1024 are 100.

    Shares then mean as much beside groups that ask for none. kernel/sched/core.c.
    """
    least, most = _WEIGHTS
    return max(least, min(most, round(shares * 100 / 1024)))


def listed(cpuset: str) -> frozenset[int]:
    """Return the processors in a list as cpuset(7) writes it (``0-2,4``); none in an empty one."""
    pairs = (part.partition("-")[::2] for part in cpuset.strip().split(",") if part)
    return frozenset[int]().union(*(range(int(low), int(high or low) + 1) for low, high in pairs))
