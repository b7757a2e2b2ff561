"""Signals as Docker and image configs write them: by name or by number."""

from __future__ import annotations

import re
import signal

from .errors import InvalidInput

_REAL_TIME = re.compile(r"SIGRT(?:MIN\+(\d{1,2})|MAX-(\d{1,2}))")


def parse_signal(text: str) -> int:
    """Return the number of ``SIGTERM``, ``TERM``, ``15`` or ``SIGRTMIN+3``. Raises InvalidInput.

    Real-time signals by offset are what systemd's images name as their StopSignal.
    """
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    if text.isascii() and text.isdecimal():
        number = int(text)
    elif match := _REAL_TIME.fullmatch(name):
        up, down = match.groups()
        number = signal.SIGRTMIN + int(up) if up else signal.SIGRTMAX - int(down)
    else:
        number = signal.Signals.__members__.get(name, 0)
    if number not in signal.valid_signals():
        raise InvalidInput(f"{text!r} is not a signal: write KILL, TERM, INT or a number")
    return int(number)
