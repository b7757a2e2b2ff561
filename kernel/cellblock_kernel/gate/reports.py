"""What a gate and its provisioner say to each other, over the gate's standard input.

A socket pair. The gate reports, a line of JSON each: that the container runs, that the kernel can
be talked to, or in one line why not. The provisioner's only word is one byte, which ends the
kernel at once and leaves its container for a restart.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass

KILL = b"k"
MAX_REPORT_BYTES = 1 << 16


@dataclass(frozen=True)
class Report:
    """How far a start has come: the container's id, whether it is ready, or why it failed."""

    container: str | None = None
    ready: bool = False
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

    @classmethod
    def on_stdin(cls) -> Reporter:
        """Return that of a gate whose standard input is the provisioner's socket."""
        return cls(socket.socket(fileno=os.dup(0)))

    def send(self, report: Report) -> None:
        """Tell the provisioner; nothing if it is gone, which the gate learns otherwise."""
        if self.sock is not None:
            try:
                self.sock.sendall(report.encode())
            except (BrokenPipeError, ConnectionResetError):
                self.sock = None
