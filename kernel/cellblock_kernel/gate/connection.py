"""Connection files: where a kernel's five channels are, and the key that signs their messages.

See "Connection files" in the documentation of jupyter_client. Reads and writes; opens no socket.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cellblock_engine import InvalidInput

CHANNELS = ("shell", "control", "stdin", "iopub", "hb")
_SCHEME = "hmac-sha256"
_MAX_FILE_BYTES = 1 << 20
_MAX_PORT = 65535
_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}")
_CURVE_KEY = re.compile(rb"[\x21-\x7e]{40}")  # Z85, ZeroMQ RFC 32


@dataclass(frozen=True)
class Connection:
    """One side's five channels: ``ports`` by channel, below ``ip`` as ``transport`` means it.

    With ``ipc`` the ip is the beginning of a path, and ports are what is appended after a dash.
    An empty ``key`` means that messages are not signed.
    """

    transport: str
    ip: str
    ports: dict[str, int]
    key: bytes
    curve_public: bytes | None = None
    curve_secret: bytes | None = None
    kernel_name: str = ""

    @classmethod
    def read(cls, path: Path) -> Connection:
        """Return what a connection file says. Raises InvalidInput, OSError."""
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES)
        try:
            plain = json.loads(text)
            scheme = plain.get("signature_scheme", _SCHEME)
            found = cls(
                transport=str(plain["transport"]),
                ip="127.0.0.1" if plain["ip"] == "localhost" else str(plain["ip"]),
                ports={name: int(plain[f"{name}_port"]) for name in CHANNELS},
                key=str(plain["key"]).encode(),
                curve_public=_bytes(plain.get("curve_publickey")),
                curve_secret=_bytes(plain.get("curve_secretkey")),
                kernel_name=str(plain.get("kernel_name", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput(f"{path} is no connection file of a kernel: {error!r}") from error
        if scheme != _SCHEME:
            raise InvalidInput(f"connection file {path}: only {_SCHEME} is known, not {scheme!r}")
        if (reason := found._refusal()) is not None:
            raise InvalidInput(f"connection file {path}: {reason}")
        return found

    def write(self, path: Path) -> None:
        """Write the connection file, for its owner only. Raises OSError."""
        plain = {
            "transport": self.transport,
            "ip": self.ip,
            "key": self.key.decode(),
            "signature_scheme": _SCHEME,
            "kernel_name": self.kernel_name,
            **{f"{name}_port": port for name, port in self.ports.items()},
        }
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(plain, file)

    def address(self, channel: str) -> str:
        """Return where a channel is, as ZeroMQ writes it."""
        separator = "-" if self.transport == "ipc" else ":"
        return f"{self.transport}://{self.ip}{separator}{self.ports[channel]}"

    def _refusal(self) -> str | None:
        """Return why this cannot be listened on, None if it can."""
        if self.transport not in ("ipc", "tcp"):
            return f"the transport is ipc or tcp, not {self.transport!r}"
        if self.transport == "tcp":
            if _LOOPBACK.fullmatch(self.ip) is None:
                return (
                    f"a kernel listens on this machine alone, not on {self.ip!r}: "
                    "use 127.0.0.1, or reach it through a Jupyter server"
                )
            for name, port in self.ports.items():
                if not 0 < port <= _MAX_PORT:
                    return f"{name}_port is {port}, which is no port"
        elif not self.ip or self.ip[0] in "@*" or "\0" in self.ip:
            return f"{self.ip!r} is no path for sockets"
        keys = (self.curve_public, self.curve_secret)
        if keys != (None, None):
            for key in keys:
                if key is None or _CURVE_KEY.fullmatch(key) is None:
                    return "curve_publickey and curve_secretkey are both needed, 40 characters each"
        return None


def _bytes(text: object) -> bytes | None:
    return str(text).encode() if text else None
