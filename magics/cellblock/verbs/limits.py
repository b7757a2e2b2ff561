"""Flags of limits that more than one verb has, and the numbers in them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from cellblock_engine import LIMITS_MODES, InvalidInput, Limits, best_effort_line

from .declaration import Argument, Call


def whole(text: str) -> int:
    """Return a whole number. Raises InvalidInput."""
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a whole number") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a number") from error


def _rate(flag: str) -> Callable[[str], tuple[str, str]]:
    def parse(text: str) -> tuple[str, str]:
        path, colon, rate = text.rpartition(":")
        if not colon:
            raise InvalidInput(f"{flag} {text!r} is not understood: write /dev/sda:RATE")
        return path, rate

    return parse


MEMORY = Argument(("-m", "--memory"), "memory limit: 64m, 1.5g", metavar="SIZE")
MEMORY_SWAP = Argument(
    ("--memory-swap",), "memory and swap together (no swap); -1: all there is", metavar="SIZE"
)
CPUS = Argument(("--cpus",), "processors at most: 0.5, 2", metavar="N", convert=_number)
PIDS_LIMIT = Argument(
    ("--pids-limit",), "processes and threads at most", metavar="N", convert=whole
)
TIMEOUT = Argument(("--timeout",), "end it after: 90, 500ms, 2m, 1h", metavar="TIME")
LIMITS_MODE = Argument(
    ("--limits",),
    "enforce (the default): refuse what cannot be; best-effort: let less stand in for it",
    metavar="HOW",
    values=LIMITS_MODES,
)
MEMORY_RESERVATION = Argument(
    ("--memory-reservation",), "memory that is taken from others first", metavar="SIZE"
)
CPU_SHARES = Argument(
    ("-c", "--cpu-shares"),
    "its share of processors that others want too (1024)",
    metavar="N",
    convert=whole,
)
_DISK_RATES = tuple(
    Argument(
        (f"--device-{does}-{unit}",),
        f"{what} at most: /dev/sda:{example}",
        "each",
        "DISK:RATE",
        convert=_rate(f"--device-{does}-{unit}"),
    )
    for unit, example in (("bps", "10m"), ("iops", "100"))
    for does, what in (
        ("read", "bytes read a second" if unit == "bps" else "reads a second"),
        ("write", "bytes written a second" if unit == "bps" else "writes a second"),
    )
)
LIMITS = (
    LIMITS_MODE,
    MEMORY,
    MEMORY_SWAP,
    MEMORY_RESERVATION,
    CPUS,
    Argument(("--cpuset-cpus",), "the processors to run on: 0-2,4", metavar="CPUS"),
    CPU_SHARES,
    PIDS_LIMIT,
    Argument(
        ("--blkio-weight",),
        "its share of disks that others use too (500), 10 to 1000",
        metavar="N",
        convert=whole,
    ),
    *_DISK_RATES,
)


def limits(given: Namespace) -> Limits:
    """Return what the flags of :data:`LIMITS` say. Raises InvalidInput."""
    return Limits(
        given.memory,
        given.cpus,
        given.pids_limit,
        given.memory_swap,
        given.cpuset_cpus,
        given.cpu_shares,
        given.memory_reservation,
        given.blkio_weight,
        dict(given.device_read_bps) or None,
        dict(given.device_write_bps) or None,
        dict(given.device_read_iops) or None,
        dict(given.device_write_iops) or None,
        mode=given.limits,
    )


def notes(call: Call, limits: Limits) -> tuple[str, ...]:
    """Return what there is to say of limits that something weaker stands in for.

    Raises LimitNotEnforceable, InvalidInput.
    """
    if limits.mode != "best-effort":
        return ()
    replaced = call.engine.replaced_limits(limits)
    return (best_effort_line(replaced),) if replaced else ()
