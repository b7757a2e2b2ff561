"""What a gate and its provisioner say to each other, over the gate's standard input.

A socket pair, and lines both ways. The gate reports, in JSON: that the container runs, that the
kernel can be talked to, or in one line why not. The provisioner has two words: ``kill`` ends the
kernel at once and leaves its container for a restart; ``swap`` and a container's id lets the kernel
of that take its place, which is reported as a start is.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass

KILL = "kill"
SWAP = "swap"
MAX_REPORT_BYTES = 1 << 16


def word(name: str, *arguments: str) -> bytes:
    """Return a word as it is said to a gate."""
    return " ".join((name, *arguments)).encode() + b"\n"


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
        self._heard = b""

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

    def hear(self) -> list[list[str]] | None:
        """Return the words that have come, each with its arguments; None when no more will."""
        assert self.sock is not None
        chunk = self.sock.recv(MAX_REPORT_BYTES)
        if not chunk:
            return None
        *lines, self._heard = (self._heard + chunk).split(b"\n")
        return [line.decode().split() for line in lines]
