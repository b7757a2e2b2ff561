"""Tests that look at the whole machine have it for themselves, whoever else runs this tree's tests.

Each test holds a shared lock, one that is marked ``alone`` an exclusive one. Who waits for either
holds the turnstile, or those that share would never let the other in.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TURNSTILE = Path(__file__)
_ROOM = Path(__file__).with_name("__init__.py")


@contextmanager
def together(*, alone: bool) -> Iterator[None]:
    """Let a test run, beside others or not."""
    with _held(_ROOM) as room:
        with _held(_TURNSTILE) as turnstile:
            fcntl.flock(turnstile, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@contextmanager
def _held(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
