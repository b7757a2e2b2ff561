"""The gate's own subscription to what a kernel publishes: how long requests wait for it.

What a request publishes is lost if it comes before the subscription. A kernel says when that has
come (JEP 65); one that does not has a moment, from the handshake of the two sockets on.
"""

from __future__ import annotations

import time
from collections.abc import Container

import zmq

_SETTLING_S, _MOST_HANDSHAKE_S = 0.2, 10.0


class Subscription:
    """One that is under way; it is over when somebody says so, or when no time is left."""

    def __init__(self, sock: zmq.Socket[bytes], poller: zmq.Poller) -> None:
        """Watch a socket that is about to be connected."""
        self._sock, self._poller = sock, poller
        self._monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._until_s = time.monotonic() + _MOST_HANDSHAKE_S
        poller.register(self._monitor, zmq.POLLIN)

    @property
    def left_s(self) -> float:
        """How long to wait at most."""
        return max(0.0, self._until_s - time.monotonic())

    def look(self, ready: Container[object]) -> None:
        """Note the handshake, if it is what is ready."""
        if self._monitor in ready:
            self._until_s = time.monotonic() + _SETTLING_S
            self.close()

    def close(self) -> None:
        """Watch no longer; closing again does nothing."""
        if not self._monitor.closed:
            self._poller.unregister(self._monitor)
            self._sock.disable_monitor()
            self._monitor.close(linger=0)
