"""Questions to a container's monitor that have one answer."""

from __future__ import annotations

import os
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
            wire.send(sock, request)
            answer, fds = wire.receive(sock)
    except (FileNotFoundError, ConnectionError):
        return None
    except TimeoutError:
        raise Conflict(f"{failing}: its monitor does not answer; is the machine busy?") from None
    for fd in fds:
        os.close(fd)
    if answer["event"] != "failed":
        return answer
    error = error_of(answer["error"])
    if isinstance(error, LimitNotEnforceable | StoreFull):
        raise error
    raise Unsupported(f"{failing}: {error}")
