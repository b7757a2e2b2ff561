"""Flags of limits that more than one verb has, and the numbers in them."""

from __future__ import annotations

from cellblock_engine import InvalidInput

from .declaration import Argument


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


MEMORY = Argument(("-m", "--memory"), "memory limit: 64m, 1.5g", metavar="SIZE")
MEMORY_SWAP = Argument(
    ("--memory-swap",), "memory and swap together (no swap); -1: all there is", metavar="SIZE"
)
CPUS = Argument(("--cpus",), "processors at most: 0.5, 2", metavar="N", convert=_number)
PIDS_LIMIT = Argument(
    ("--pids-limit",), "processes and threads at most", metavar="N", convert=whole
)
TIMEOUT = Argument(("--timeout",), "end it after: 90, 500ms, 2m, 1h", metavar="TIME")
