"""What a running container uses at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stats:
    """What a container uses, and may use, of memory, processors and processes.

    None is what the kernel does not count here, or no limit of its own. ``memory_bytes`` is
    without file pages that nobody used lately; ``cpu_seconds`` is processor time since the start;
    ``pids`` counts processes and threads, ``pids_refused`` those that the limit did not let start
    since the container did. The limits are those in force: one on processes is
    there by default. ``monotonic_s`` says when, on this machine's CLOCK_MONOTONIC. The stalls are
    how long something in it stood waiting since its start, for memory, a processor or a disk:
    cgroup v2 counts them (Documentation/accounting/psi.rst).
    """

    memory_bytes: int | None
    memory_peak_bytes: int | None
    memory_limit_bytes: int | None
    cpu_seconds: float | None
    cpus_limit: float | None
    pids: int | None
    pids_limit: int | None
    monotonic_s: float
    pids_refused: int = 0
    memory_stalled_s: float | None = None
    cpu_stalled_s: float | None = None
    io_stalled_s: float | None = None

    def cpus_since(self, earlier: Stats) -> float | None:
        """Return how many processors it used on average since ``earlier`` (1.5 is one and a half).

        None where processor time is not counted, or no time has passed.
        """
        passed_s = self.monotonic_s - earlier.monotonic_s
        if self.cpu_seconds is None or earlier.cpu_seconds is None or passed_s <= 0:
            return None
        return max(0.0, self.cpu_seconds - earlier.cpu_seconds) / passed_s


def stats_of(plain: dict[str, Any]) -> Stats:
    """Return what a monitor tells. Raises KeyError, TypeError, ValueError."""
    usage, limits = plain["usage"], plain["limits"]
    cpu_usage_ns = usage["cpu_usage_ns"]
    return Stats(
        memory_bytes=usage["memory_bytes"],
        memory_peak_bytes=usage["memory_peak_bytes"],
        memory_limit_bytes=limits["memory_bytes"],
        cpu_seconds=None if cpu_usage_ns is None else cpu_usage_ns / 1e9,
        cpus_limit=limits["cpus"],
        pids=usage["pids"],
        pids_limit=limits["pids"],
        monotonic_s=float(plain["monotonic_s"]),
        pids_refused=usage["pids_refused"],
        # An older monitor does not tell of these.
        memory_stalled_s=_seconds(usage.get("memory_stalled_us")),
        cpu_stalled_s=_seconds(usage.get("cpu_stalled_us")),
        io_stalled_s=_seconds(usage.get("io_stalled_us")),
    )


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6
