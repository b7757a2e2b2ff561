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
    """Counts SIGINT; ``fd`` turns readable with each. Elsewhere than the main thread: none."""

    def __init__(self) -> None:
        self.count = 0
        self.fd, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self.fd, False)
        self._installed = False
        self._withdrawn = False

    def __enter__(self) -> Self:
        """Take over SIGINT, where that is ours to take."""
        self._previous = signal.getsignal(signal.SIGINT)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and self._previous is not None:
            signal.signal(signal.SIGINT, self._note)
            self._installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Give SIGINT back."""
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)
        os.close(self.fd)
        os.close(self._wake)

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

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        if self._withdrawn:
            self._withdrawn = False
            return
        self.count += 1
        if self.count > _NOTED:
            raise KeyboardInterrupt
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"!")
