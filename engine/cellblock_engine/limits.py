"""Limits on what a container may use, and the units they are written in."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import InvalidInput

_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
MOST_PIDS = 2**22  # PID_MAX_LIMIT of a 64-bit kernel: proc_sys_kernel(5), pid_max
_CPUSET = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?){0,255}")
SMALLEST_MEMORY_BYTES = 6 * 2**20  # Docker's floor: below it nothing starts


def parse_bytes(text: str | int, what: str = "size") -> int:
    """Return the bytes in ``64m``, ``1.5g``, ``512k``, ``1GiB`` or a plain number.

    Units are powers of 1024, as Docker reads them. Raises InvalidInput.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise InvalidInput(f"{what} {text!r} is not a size: write a number and b, k, m, g or t")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def parse_seconds(text: str | float, what: str = "timeout") -> float:
    """Return the seconds in ``90``, ``1.5s``, ``2m``, ``1h``, ``500ms``. Raises InvalidInput."""
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or not float(match[1]):
        raise InvalidInput(
            f"{what} {text!r} is not a duration: write a number above 0 and ms, s, m or h"
        )
    return float(match[1]) * _SECONDS[match[2].lower()]


@dataclass(frozen=True)
class Limits:
    """What a container may use at most; None is no limit of its own.

    ``memory`` takes bytes or Docker's notation (``"64m"``) and is kept in bytes; ``cpus`` counts
    processors (0.5 is half of one); ``pids`` counts processes and threads. ``memory_swap`` is
    memory and swap together, at least ``memory`` (None: no swap; -1: all swap there is);
    ``cpuset_cpus`` names processors (``"0-2,4"``). Raises InvalidInput.
    """

    memory: int | str | None = None
    cpus: float | None = None
    pids: int | None = None
    memory_swap: int | str | None = None
    cpuset_cpus: str | None = None

    def __post_init__(self) -> None:
        """Read the units and refuse what no kernel could enforce."""
        if self.memory is not None:
            object.__setattr__(self, "memory", parse_bytes(self.memory, "memory limit"))
        if self.memory_bytes is not None and self.memory_bytes < SMALLEST_MEMORY_BYTES:
            raise InvalidInput(f"memory limit {self.memory} is too small: at least 6m")
        self._check_swap()
        if self.cpuset_cpus is not None and not _CPUSET.fullmatch(self.cpuset_cpus):
            raise InvalidInput(f"cpuset-cpus {self.cpuset_cpus!r} is not valid: write 0-2,4")
        if self.cpus is not None and not (0.01 <= self.cpus < math.inf):
            raise InvalidInput(f"cpus limit {self.cpus} is out of range: at least 0.01")
        if self.pids is not None and not 1 <= self.pids <= MOST_PIDS:
            raise InvalidInput(f"pids limit {self.pids} is out of range: 1 to {MOST_PIDS}")

    def _check_swap(self) -> None:
        if self.memory_swap is None:
            return
        if self.memory_bytes is None:
            raise InvalidInput("memory-swap limits memory and swap together: give --memory as well")
        if str(self.memory_swap) == "-1":
            object.__setattr__(self, "memory_swap", -1)
            return
        object.__setattr__(self, "memory_swap", parse_bytes(self.memory_swap, "memory-swap"))
        if (self.memory_swap_bytes or 0) < self.memory_bytes:
            raise InvalidInput(
                "memory-swap is memory and swap together: it cannot be less than the memory limit"
            )

    @property
    def memory_swap_bytes(self) -> int | None:
        """The limit of memory and swap together in bytes."""
        return self.memory_swap if isinstance(self.memory_swap, int) else None

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit in bytes."""
        return self.memory if isinstance(self.memory, int) else None

    def __bool__(self) -> bool:
        """Tell whether anything is limited."""
        limits = (self.memory, self.cpus, self.pids, self.memory_swap, self.cpuset_cpus)
        return any(value is not None for value in limits)
