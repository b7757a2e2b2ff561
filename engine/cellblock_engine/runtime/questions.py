"""Questions to a container's monitor that have one answer."""

from __future__ import annotations

import os
import socket
from typing import Any

from ..errors import Conflict, LimitNotEnforceable, StoreFull, Unsupported
from . import wire
from .verdicts import error_of

_PATIENCE_S = 10.0


def ask(path: str, request: dict[str, Any], failing: str) -> dict[str, Any] | None:
    """Return the answer of the monitor that listens at ``path``, None when it has ended.

    ``failing`` begins the message should there be no answer. Raises LimitNotEnforceable and
    StoreFull as the monitor found them, Unsupported for a question that it does not know, as an
    older one may not, Conflict when it is silent.
    """
    try:
        with wire.connect(path, timeout_s=_PATIENCE_S) as sock:
            return exchange(sock, request, failing)
    except (FileNotFoundError, ConnectionError):
        return None
    except TimeoutError:
        raise _silent(failing) from None


def exchange(sock: socket.socket, request: dict[str, Any], failing: str) -> dict[str, Any]:
    """Return the answer of the monitor at the other end; raises as :func:`ask` does.

    Raises ConnectionError when it has ended.
    """
    try:
        wire.send(sock, request)
        answer, fds = wire.receive(sock)
    except TimeoutError:
        raise _silent(failing) from None
    for fd in fds:
        os.close(fd)
    if answer["event"] != "failed":
        return answer
    error = error_of(answer["error"])
    if isinstance(error, LimitNotEnforceable | StoreFull):
        raise error
    raise Unsupported(f"{failing}: {error}")


def _silent(failing: str) -> Conflict:
    return Conflict(f"{failing}: its monitor does not answer; is the machine busy?")
