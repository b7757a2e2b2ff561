"""Limits on what a container may use, and the units they are written in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from .errors import InvalidInput

Mode = Literal["enforce", "best-effort"]
LIMITS_MODES: tuple[str, ...] = get_args(Mode)

_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
MOST_PIDS = 2**22  # PID_MAX_LIMIT of a 64-bit kernel: proc_sys_kernel(5), pid_max
_CPUSET = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?){0,255}")
SMALLEST_MEMORY_BYTES = 6 * 2**20  # Docker's floor: below it nothing starts
_CPU_SHARES = (2, 262144)  # kernel/sched/sched.h, MIN_SHARES and MAX_SHARES
_BLKIO_WEIGHT = (10, 1000)  # Docker's; BFQ takes 1 to 1000
_BANDWIDTHS = ("device_read_bps", "device_write_bps")
DEVICE_RATES = (*_BANDWIDTHS, "device_read_iops", "device_write_iops")
_FASTEST = 2**63 - 1


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


def best_effort_line(replaced: Mapping[str, str]) -> str:
    """Return in one line what stands in for limits, by their names."""
    words = "; ".join(f"{name}: {what}" for name, what in replaced.items())
    return f"limits by best effort, as no control group can enforce them here: {words}"


@dataclass(frozen=True)
class Limits:
    """What a container may use at most; None is no limit of its own.

    ``memory`` takes bytes or Docker's notation (``"64m"``) and is kept in bytes; ``cpus`` counts
    processors (0.5 is half of one); ``pids`` counts processes and threads. ``memory_swap`` is
    memory and swap together, at least ``memory`` (None: no swap; -1: all swap there is);
    ``cpuset_cpus`` names processors (``"0-2,4"``).

    Where others want the same: ``cpu_shares`` is its share of the processors (1024 is usual),
    ``memory_reservation`` the memory that is left to it, ``blkio_weight`` its share of disks.
    ``device_read_bps`` and ``device_write_bps`` are bytes a second, ``device_read_iops`` and
    ``device_write_iops`` operations a second, by the path of a disk.

    ``mode`` says what is done about a limit that no control group can enforce: None and
    ``"enforce"`` refuse it, ``"best-effort"`` lets something weaker stand in for it, where there
    is something. Raises InvalidInput.
    """

    memory: int | str | None = None
    cpus: float | None = None
    pids: int | None = None
    memory_swap: int | str | None = None
    cpuset_cpus: str | None = None
    cpu_shares: int | None = None
    memory_reservation: int | str | None = None
    blkio_weight: int | None = None
    device_read_bps: Mapping[str, int | str] | None = None
    device_write_bps: Mapping[str, int | str] | None = None
    device_read_iops: Mapping[str, int | str] | None = None
    device_write_iops: Mapping[str, int | str] | None = None
    mode: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Read the units and refuse what no kernel could enforce."""
        if self.mode is not None and self.mode not in LIMITS_MODES:
            raise InvalidInput(
                f"limits {self.mode!r} is not known: use {' or '.join(LIMITS_MODES)}"
            )
        if self.memory is not None:
            object.__setattr__(self, "memory", parse_bytes(self.memory, "memory limit"))
        if self.memory_bytes is not None and self.memory_bytes < SMALLEST_MEMORY_BYTES:
            raise InvalidInput(f"memory limit {self.memory} is too small: at least 6m")
        self._check_swap()
        self._check_reservation()
        if self.cpuset_cpus is not None and not _CPUSET.fullmatch(self.cpuset_cpus):
            raise InvalidInput(f"cpuset-cpus {self.cpuset_cpus!r} is not valid: write 0-2,4")
        if self.cpus is not None and not (0.01 <= self.cpus < math.inf):
            raise InvalidInput(f"cpus limit {self.cpus} is out of range: at least 0.01")
        _check_range("pids limit", self.pids, 1, MOST_PIDS)
        _check_range("cpu-shares", self.cpu_shares, *_CPU_SHARES)
        _check_range("blkio-weight", self.blkio_weight, *_BLKIO_WEIGHT)
        for name in DEVICE_RATES:
            if (rates := getattr(self, name)) is not None:
                object.__setattr__(self, name, _parse_rates(name, rates))

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

    def _check_reservation(self) -> None:
        if self.memory_reservation is None:
            return
        reserved = parse_bytes(self.memory_reservation, "memory-reservation")
        object.__setattr__(self, "memory_reservation", reserved)
        if self.memory_bytes is not None and reserved > self.memory_bytes:
            raise InvalidInput("memory-reservation cannot be more than the memory limit")

    @property
    def device_rates(self) -> Mapping[str, Mapping[str, int]]:
        """The limits on disk traffic that are set: by their names, then by the disk's path."""
        found = {name: getattr(self, name) for name in DEVICE_RATES}
        return {name: rates for name, rates in found.items() if rates}

    @property
    def memory_reservation_bytes(self) -> int | None:
        """The memory that is left to it, in bytes."""
        return self.memory_reservation if isinstance(self.memory_reservation, int) else None

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
        names = (each.name for each in fields(self) if each.name != "mode")
        return any(getattr(self, name) not in (None, {}) for name in names)


def _check_range(what: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidInput(f"{what} {value} is out of range: {least} to {most}")


def _parse_rates(name: str, rates: Mapping[str, int | str]) -> dict[str, int]:
    """Return what a second allows by the path of a disk. Raises InvalidInput."""
    what = name.replace("_", "-")
    found = {}
    for path, rate in rates.items():
        if not path.startswith("/") or "\0" in path:
            raise InvalidInput(f"{what} {path!r} is not the path of a disk, as /dev/sda is")
        if name in _BANDWIDTHS:
            found[path] = parse_bytes(rate, what)
        elif str(rate).isdecimal():
            found[path] = int(rate)
        else:
            raise InvalidInput(f"{what} {rate!r} is not a whole number of operations a second")
        _check_range(f"{what} of {path},", found[path], 1, _FASTEST)
    return found
