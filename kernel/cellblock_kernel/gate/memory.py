"""A bound on what a hostile kernel can make the gate hold, which is outside the kernel's limits.

ZeroMQ reads a message without end, and whatever a kernel publishes faster than it is passed on,
into this process: no option of its sockets bounds both without losing what an honest kernel says.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

MOST_BYTES = 4 << 30
"""Four times a largest message; what outboxes keep is far less."""
_NO_CORE = 1  # 0 would still pipe the dump, which has both keys in it, to a core handler


@contextmanager
def bounded(most_bytes: int = MOST_BYTES) -> Iterator[None]:
    """Bound this process meanwhile: beyond, ZeroMQ hangs up or aborts, Python raises MemoryError.

    The gate's end is the kernel's. Processes that are started meanwhile inherit the bound, each for
    itself: those of host cells.
    """
    before = {
        kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CORE)
    }
    for kind, most in ((resource.RLIMIT_DATA, most_bytes), (resource.RLIMIT_CORE, _NO_CORE)):
        soft, hard = before[kind]
        resource.setrlimit(
            kind, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard)
        )
    try:
        yield
    finally:
        for kind, limits in before.items():
            resource.setrlimit(kind, limits)
