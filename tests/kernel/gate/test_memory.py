"""What a kernel can make its gate hold is bounded, and what a gate starts is not."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from cellblock_kernel.gate import memory
from support.relays import PORTS

_GATE = """
import sys
from cellblock_kernel.gate import memory
from cellblock_kernel.gate.connection import Connection
from cellblock_kernel.gate.relay import Relay
from support.relays import BACK_KEY, FRONT_KEY, PORTS
base = sys.argv[1]
with Relay(Connection("ipc", f"{base}/front", PORTS, FRONT_KEY)) as relay:
    relay.connect(Connection("ipc", f"{base}/kernel", PORTS, BACK_KEY))
    print("bounded", flush=True)
    with memory.bounded(256 << 20):
        while True:
            relay.turn(None)
"""
_READY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"PUB"
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MIB = 1 << 20
_PART = b"\x03" + struct.pack(">Q", _MIB) + bytes(_MIB)  # more parts follow, ZMTP 3.0 says


def publish_without_end(listener, sent):
    """Be a kernel's IOPub socket that begins one message and never ends it."""
    with suppress(OSError), listener.accept()[0] as sock:
        sock.sendall(_GREETING)
        sock.recv(64, socket.MSG_WAITALL)
        sock.sendall(b"\x04" + bytes([len(_READY)]) + _READY)
        while len(sent) < 2048:
            sock.sendall(_PART)
            sent.append(1)


@pytest.mark.attack(22)
def test_a_message_without_end_is_refused_at_the_bound(tmp_path_factory):
    base = tmp_path_factory.mktemp("m")
    listeners = {}
    for name, port in PORTS.items():
        listeners[name] = socket.socket(socket.AF_UNIX)
        listeners[name].bind(f"{base}/kernel-{port}")
        listeners[name].listen()
    sent: list[int] = []
    kernel = threading.Thread(
        target=publish_without_end, args=(listeners["iopub"], sent), daemon=True
    )
    kernel.start()
    gate = subprocess.Popen(
        [sys.executable, "-c", _GATE, str(base)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert gate.stdout is not None
        assert gate.stdout.readline() == b"bounded\n"
        kernel.join(30)
        assert not kernel.is_alive()
    finally:
        gate.kill()
        gate.communicate()
        for listener in listeners.values():
            listener.close()
    assert 100 < len(sent) < 300  # without a bound, all 2048 MiB are taken


def test_the_bound_goes_with_the_block_and_is_never_raised():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory.bounded(8 << 30):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 8 << 30
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] <= 1
        with memory.bounded(9 << 30):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 8 << 30
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
