"""The listeners of a container's commands, until somebody waits for an answer: then a recorder's.

What reads the container's words is that process (:mod:`.recorder`); here nothing is read.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack

from .loop import Loop
from .sandbox import Sandbox

_AGAIN_S = 0.1


class Recording:
    """Starts a recorder when it is needed, and once; most commands change no owners."""

    def __init__(self, loop: Loop, sandbox: Sandbox, stack: ExitStack) -> None:
        self._loop, self._sandbox, self._stack = loop, sandbox, stack
        self._listeners: set[int] = set()
        self._line: socket.socket | None = None
        stack.callback(self._close)

    def take(self, listener: int | None) -> None:
        """Own a command's listener; nothing if it has none."""
        if listener is not None:
            self._listeners.add(listener)
            self._watch(listener)

    def _watch(self, listener: int) -> None:
        self._loop.watch(listener, lambda: self._on_ready(listener))

    def _on_ready(self, listener: int) -> None:
        """Give it to the recorder, or close it: nobody is under this filter any more."""
        self._loop.unwatch(listener)
        if _somebody_waits(listener):
            try:
                socket.send_fds(self._started(), [b"!"], [listener])
            except BlockingIOError:  # it has a file to copy up, say
                self._loop.after(_AGAIN_S, lambda: self._watch(listener))
                return
            except OSError:
                pass  # it is gone: to close this is the answer, ENOSYS
        self._listeners.remove(listener)
        os.close(listener)

    def _started(self) -> socket.socket:
        if self._line is None:
            self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._stack.callback(self._line.close)
            self._line.settimeout(0)
            with theirs:
                self._sandbox.start_recorder(theirs)
        return self._line

    def _close(self) -> None:
        while self._listeners:
            os.close(self._listeners.pop())


def _somebody_waits(listener: int) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))
