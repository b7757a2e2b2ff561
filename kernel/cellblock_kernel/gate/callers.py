"""Who can tell a gate something beside its messages: whoever started it, and signals."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from types import FrameType

from ..errors import KernelNotReady

_PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def parents(stack: ExitStack) -> list[int]:
    """Return pidfds of whoever started this: its parent, and whom a wrapper of that names.

    Raises KernelNotReady where one of them has ended.
    """
    pidfds = []
    for pid in {os.getppid(), int(os.environ.get("JPY_PARENT_PID") or os.getppid())}:
        try:
            pidfds.append(os.pidfd_open(pid))
        except ProcessLookupError:
            raise KernelNotReady(f"process {pid}, which wanted the kernel, has ended") from None
        stack.callback(os.close, pidfds[-1])
    return pidfds


def signal_pipe(stack: ExitStack) -> int:
    """Return where the numbers of signals for the kernel can be read from now on."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, read_end)
    stack.callback(os.close, write_end)
    stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(write_end))
    for number in _PASSED_ON:
        signal.signal(number, _noted)
    return read_end


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the number is in the pipe."""
