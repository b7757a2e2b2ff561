"""A container that stands still for one client, as long as that stays and at most some seconds.

Meanwhile its monitor hears nobody else: what they ask, a kill too, is done when it goes on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from ..errors import Unsupported
from ..linux.cgroups.group import Group
from .loop import Loop, Timer

_LONGEST_S = 5.0
"""Others that ask are patient for ten."""

_TO_STAND_STILL_S = 3.0


class Pause:
    """Freezes a container's group, and lets it go on whatever becomes of who asked for it."""

    def __init__(self, loop: Loop, group: Group) -> None:
        self._loop, self._group = loop, group
        self._holder: socket.socket | None = None
        self._timer: Timer | None = None
        self._put_off: list[tuple[socket.socket, Callable[[], None]]] = []

    def puts_off(self, client: socket.socket, callback: Callable[[], None]) -> bool:
        """Return whether a client has to wait; it is watched again, with ``callback``, later."""
        if self._holder in (None, client):
            return False
        self._loop.unwatch(client.fileno())
        self._put_off.append((client, callback))
        return True

    def begin(self, client: socket.socket) -> None:
        """Let it stand still. Raises Unsupported, OSError."""
        try:
            self._group.freeze(_TO_STAND_STILL_S)
        except TimeoutError:
            raise Unsupported(
                f"its processes do not stand still within {_TO_STAND_STILL_S:g} s: stop it first"
            ) from None
        self._holder = client
        self._timer = self._loop.after(_LONGEST_S, self._on_deadline)

    def drop(self, client: socket.socket) -> None:
        """Let it go on if it is this client that went away."""
        if client is self._holder:
            self.end()

    def _on_deadline(self) -> None:
        self.end()

    def end(self) -> bool:
        """Let it go on; return whether it had stood still until now."""
        if self._holder is None:
            return False
        self._holder = None
        if self._timer is not None:
            self._timer.cancel()
        with suppress(OSError):  # the group is gone
            self._group.thaw()
        for client, callback in self._put_off:
            if client.fileno() >= 0:
                self._loop.watch(client.fileno(), callback)
        self._put_off.clear()
        return True
