"""How long, and how often, a server is asked before it is given up; no I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long a silent or failing server is borne with; all times in seconds."""

    attempts: int = 4
    backoff_s: float = 0.5
    longest_wait_s: float = 10.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    answer_timeout_s: float = 60.0
    slow_window_s: float = 60.0
    slow_bytes: int = 64 * 2**10

    def wait_s(self, attempt: int, retry_after: str | None) -> float:
        """Return how long to wait after failed attempt number ``attempt`` (from 0).

        A server's Retry-After in seconds is heeded up to ``longest_wait_s``.
        """
        wanted = self.backoff_s * (1 << attempt) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            wanted = float(retry_after[:9])
        return min(wanted, self.longest_wait_s)
