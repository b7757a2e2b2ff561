"""The gate's relay before a plain local ipykernel: no container, so that it starts fast.

``python -m support.local_gate -f CONNECTION_FILE [--untrusted]`` is a kernelspec's argv.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cellblock_kernel.gate.connection import CHANNELS, Connection
from cellblock_kernel.gate.guard import Guard
from cellblock_kernel.gate.hostcells import HostCells
from cellblock_kernel.gate.ledger import Ledger
from cellblock_kernel.gate.recorder import Recorder
from cellblock_kernel.gate.relay import Relay
from cellblock_kernel.gate.rules import Rule

PORTS = {name: number for number, name in enumerate(CHANNELS, 1)}
_START_S = 30.0


def main(connection_file: str, *, untrusted: bool) -> int:
    """Relay until the kernel has ended; return its exit status."""
    ledger = Ledger()
    recorder = Recorder()
    rules: list[Rule] = [ledger, HostCells(ledger, recorder), recorder]
    if untrusted:
        rules.insert(0, guard := Guard(ledger))
    with (
        tempfile.TemporaryDirectory(prefix="cb-lg-") as directory,
        Relay(Connection.read(Path(connection_file)), rules) as relay,
    ):
        if untrusted:
            guard.passage = relay
        ip = f"{directory}/kernel"
        back = Connection("ipc", ip, PORTS, secrets.token_hex(32).encode())
        file = Path(directory, "connection.json")
        back.write(file)
        kernel = subprocess.Popen([sys.executable, "-m", "ipykernel_launcher", "-f", str(file)])
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda number, _frame: kernel.send_signal(number))
            deadline_s = time.monotonic() + _START_S
            while not all(os.path.exists(f"{ip}-{port}") for port in PORTS.values()):
                assert kernel.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.005)
            relay.watch(os.pidfd_open(kernel.pid), relay.stop)
            relay.connect(back)
            while not relay.stopped:
                relay.turn(None)
            relay.drain()
            relay.deliver()
            return kernel.wait()
        finally:
            kernel.kill()
            kernel.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[2], untrusted="--untrusted" in sys.argv))
