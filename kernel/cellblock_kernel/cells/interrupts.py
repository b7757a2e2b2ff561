"""A user's interrupt, noted instead of raised, while a cell runs elsewhere.

KeyboardInterrupt can strike between any two instructions, a half-read frame among them. While
this is entered in the main thread, the first two only count and wake the caller's selector; a
third is raised, for whoever waits on something that does not wake.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self

_NOTED = 2


class Interrupts:
    """Counts SIGINT; ``fd`` turns readable with each. Elsewhere than the main thread: none.

    The pipe lives only while SIGINT does not raise: it is never left open by an interrupt.
    """

    def __init__(self) -> None:
        self.count = 0
        self.fd = self._wake = -1
        self._installed = False
        self._withdrawn = False

    def __enter__(self) -> Self:
        """Take over SIGINT, where that is ours to take."""
        self._previous = signal.getsignal(signal.SIGINT)
        in_main = threading.current_thread() is threading.main_thread()
        self._installed = in_main and self._previous is not None
        if self._installed:
            signal.signal(signal.SIGINT, self._note)
        try:
            self.fd, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self._give_back()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Give SIGINT back. Raises KeyboardInterrupt for one that came meanwhile."""
        noted = self.count
        wake, self._wake = self._wake, -1
        os.close(wake)
        os.close(self.fd)
        self._give_back()
        if self.count > noted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Let SIGINT raise KeyboardInterrupt meanwhile, where someone is asked; it is noted."""
        if not self._installed:
            yield
            return
        signal.signal(signal.SIGINT, self._previous)
        try:
            try:
                yield
            finally:
                signal.signal(signal.SIGINT, self._note)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, self._note)  # it may have struck the first attempt
            self._note(signal.SIGINT, None)

    def withdraw(self) -> None:
        """End :meth:`raised`, from any thread, as an interrupt would; it is not counted."""
        if self._installed:
            self._withdrawn = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def clear(self) -> None:
        """Take the wake-up back; the count stays."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 64)

    def _give_back(self) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        if self._withdrawn:
            self._withdrawn = False
            return
        self.count += 1
        if self.count > _NOTED and self._wake >= 0:
            raise KeyboardInterrupt
        if self._wake >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake, b"!")
