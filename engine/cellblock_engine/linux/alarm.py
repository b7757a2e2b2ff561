"""A deadline for system calls that have none of their own: setitimer(2), signal(7)."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def interrupted(after_s: float) -> Iterator[None]:
    """Raise TimeoutError (ETIMEDOUT) if the block has not ended ``after_s`` seconds from now.

    In the main thread only, and for system calls that a signal ends (EINTR). SIGALRM is taken
    for as long.
    """
    before = signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ring(*_: object) -> NoReturn:
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
