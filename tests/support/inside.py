"""Runs an attack inside a container and brings back what the kernel answered, by errno's name."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable
from typing import Any

from cellblock_engine import Engine, Limits, Result, errors

# What every attack starts with: `attempt` records the errno by name, or "allowed".
PRELUDE = """
import ctypes, errno, json, os, platform, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
outcome = {}

def attempt(name, call):
    try:
        call()
    except OSError as error:
        outcome[name] = errno.errorcode[error.errno]
    else:
        outcome[name] = "allowed"

def syscall(x86_64, aarch64, *arguments):
    number = x86_64 if X86 else aarch64
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result
"""


def attack(engine: Engine, image: str, code: str) -> dict[str, Any]:
    """Run an attack as root of a container and return its outcomes by name."""
    program = f"{PRELUDE}\n{code}\nprint(json.dumps(outcome))"
    done = engine.run(image, ["python3", "-c", program], limits=Limits(memory="256m", pids=64))
    assert done.exit_code == 0, (done.stderr, done.verdict)
    outcome = json.loads(done.stdout)
    assert outcome, "the attack tried something"
    return dict(outcome)


def assert_refused(outcome: dict[str, Any], *allowed_errnos: str) -> None:
    """Assert that each attempt ended with one of these errors."""
    let_through = {k: v for k, v in outcome.items() if v not in allowed_errnos}
    assert let_through == {}


def output_of(run: Callable[[], Result]) -> bytes:
    """Return what a run printed; nothing where it was refused."""
    try:
        return run().stdout
    except errors.StartFailed:
        return b""


def read_line(fd: int, timeout_s: float = 30) -> bytes:
    """Return the first line that arrives on a pipe that may be non-blocking."""
    line = b""
    deadline = time.monotonic() + timeout_s
    while not line.endswith(b"\n") and (left_s := deadline - time.monotonic()) > 0:
        if select.select([fd], [], [], left_s)[0]:
            byte = os.read(fd, 1)
            if not byte:
                break
            line += byte
    return line
