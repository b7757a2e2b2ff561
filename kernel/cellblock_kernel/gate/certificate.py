"""Why a kernel has ended, in the one line that the cell which was running is left with.

It says what the engine has counted and what the kernel's own options are, nothing from inside.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from cellblock_engine import Exit, Killed, OutOfMemory, PidsExceeded, TimedOut, Verdict

from .messages import Message, topic

_BY_SIGNAL = 128
_KILLED_STATUS = _BY_SIGNAL + signal.SIGKILL
_UNNAMED = "KernelEnded"


@dataclass(frozen=True)
class Certificate:
    """The ``name`` of what ended a kernel (a verdict's, if there is one), and the ``line``."""

    name: str
    line: str

    @classmethod
    def of(cls, end: Exit) -> Certificate:
        """Return the one for an end that nobody asked for."""
        verdict = end.verdict
        if verdict is None:
            return cls(_UNNAMED, f"the kernel ended: {_status(end.exit_code)}")
        if _explains(verdict, end.exit_code):
            return cls(type(verdict).__name__, f"the kernel ended: {advice(verdict)}")
        line = f"the kernel ended: {_status(end.exit_code)}; before that, {advice(verdict)}"
        return cls(_UNNAMED if isinstance(verdict, OutOfMemory) else type(verdict).__name__, line)

    def message(self, cell: Mapping[str, object]) -> Message:
        """Return it as an output of the cell of this header: an error, as if by the kernel."""
        content = {"ename": self.name, "evalue": self.line, "traceback": [self.line]}
        return Message.of("error", content, parent=cell, identities=topic("error"))


def _explains(verdict: Verdict, exit_code: int) -> bool:
    """Return whether it ended the kernel itself; counters also know of children, long ago."""
    if isinstance(verdict, OutOfMemory):
        return exit_code == _KILLED_STATUS
    return isinstance(verdict, TimedOut | Killed)


def advice(verdict: Verdict) -> str:
    """Return the verdict, which ends in the option to change, with the command that has it."""
    has_option = isinstance(verdict, OutOfMemory | PidsExceeded | TimedOut)
    return f"{verdict} of kernel install" if has_option else str(verdict)


def _status(exit_code: int) -> str:
    try:
        name = signal.Signals(exit_code - _BY_SIGNAL).name
    except ValueError:
        return f"exit status {exit_code}"
    return f"by {name} (exit status {exit_code})"
