"""What a gate and its provisioner say to each other, over the gate's standard input.

A socket pair: the gate reports once how the start went, as a line of JSON; the provisioner's
only word is one byte that ends the kernel at once and leaves its container for a restart.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass

KILL = b"k"
_MAX_REPORT_BYTES = 1 << 16


@dataclass(frozen=True)
class Report:
    """How a start went: the container's id, or in one line why there is none."""

    container: str | None = None
    pid: int | None = None
    failure: str | None = None

    def encode(self) -> bytes:
        """Return it as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Report:
        """Return what a line says. Raises ValueError, TypeError."""
        return cls(**json.loads(line))


class Reporter:
    """The gate's end; says nothing where nobody listens."""

    def __init__(self, sock: socket.socket | None) -> None:
        self.sock = sock

    def send(self, report: Report) -> None:
        """Tell the provisioner."""
        if self.sock is not None:
            self.sock.sendall(report.encode())
