"""A poll loop: descriptors and deadlines with callbacks, and nothing else.

The monitor is a process of a megabyte that a container start waits for; asyncio alone is larger.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

READ = select.POLLIN
WRITE = select.POLLOUT

_LONGEST_POLL_MS = 3_600_000.0  # poll(2) counts milliseconds in an int


class Timer:
    """A deadline that can be called off."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call back."""
        self.callback = None


class Loop:
    """Runs callbacks on one thread until :meth:`stop`."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = False

    def watch(self, fd: int, callback: Callable[[], None], events: int = READ) -> None:
        """Call back whenever ``fd`` is ready or has hung up; replaces an earlier watch."""
        self._callbacks[fd] = callback
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; nothing if it is not watched."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back once, in ``delay_s`` seconds of monotonic time."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def stop(self) -> None:
        """Let :meth:`run` return after the callback that is running."""
        self._running = False

    def run(self) -> None:
        """Call back until stopped."""
        self._running = True
        while self._running:
            for fd, _ in self._poll.poll(self._timeout_ms()):
                callback = self._callbacks.get(fd)
                if callback is not None and self._running:
                    callback()
            self._call_due()

    def _timeout_ms(self) -> float | None:
        if not self._timers:
            return None
        left_ms = (self._timers[0][0] - time.monotonic()) * 1000 + 1
        return min(max(0.0, left_ms), _LONGEST_POLL_MS)

    def _call_due(self) -> None:
        while self._running and self._timers and self._timers[0][0] <= time.monotonic():
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()
