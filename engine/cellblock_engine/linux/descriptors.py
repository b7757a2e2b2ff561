"""The descriptors of a process that keeps but a few of its parent's."""

from __future__ import annotations

import os

from . import syscalls


def close_all_but(*kept: int) -> None:
    """Close all others; the standard streams lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(nowhere, number)
    first = 3
    for fd in sorted(kept):
        if first < fd:
            syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first, syscalls.CLOSE_RANGE_MAX)
