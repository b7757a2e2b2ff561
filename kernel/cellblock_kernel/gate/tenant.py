"""A kernel that has moved in: its container, attached, and what it writes beside its channels."""

from __future__ import annotations

import os
import select
import signal
from functools import partial

from cellblock_engine import AttachedRun, Container, Exit

from .aside import Aside
from .relay import Relay

_CHUNK = 1 << 16
_UNWINDING_S = 10.0


class Tenant:
    """Owns the attached run; what it writes is shown when the relay's turn finds it."""

    def __init__(self, attached: AttachedRun, relay: Relay) -> None:
        """Show from now on what it writes."""
        self.attached = attached
        self._relay = relay
        self._asides = {attached.stdout: Aside(1), attached.stderr: Aside(2)}
        for fd in self._asides:
            relay.watch(fd, partial(self._show, fd))

    @property
    def container(self) -> Container:
        """The container it is in."""
        return self.attached.container

    def has_ended(self) -> bool:
        """Return whether it has ended, without waiting."""
        return bool(select.select([self.attached.fileno()], [], [], 0)[0])

    def end(self) -> None:
        """End it at once. Raises TimeoutError where that takes many seconds."""
        self.attached.signal(signal.SIGKILL)
        self.attached.wait(_UNWINDING_S)

    def show_rest(self) -> None:
        """Pass on what an ended one has written last."""
        for fd in self._asides:
            self._show(fd)

    def why_not_started(self, end: Exit) -> str:
        """Return the reason in one line: the verdict, or its status with its own last line."""
        self.show_rest()
        reason = str(end.verdict) if end.verdict else f"exit status {end.exit_code}"
        out, err = (aside.last_line() for aside in self._asides.values())
        last = err or out
        return f"the kernel did not start: {reason}" + (f" ({last})" if last else "")

    def close(self) -> None:
        """Give everything back; one that still runs is ended, and abandoned."""
        for fd in (self.attached.fileno(), *self._asides):
            self._relay.unwatch(fd)
        self.attached.close()

    def _show(self, fd: int) -> None:
        """Pass on what the kernel writes beside its channels, as a local kernel would."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        self._asides[fd].feed(data)
        if not data:
            self._relay.unwatch(fd)
