"""Kills processes of the engine, or its callers, at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from support import leaks

Victim = Literal["client", "spawner", "monitor", "init"]
VICTIMS: tuple[Victim, ...] = ("client", "spawner", "monitor", "init")

RUN = """
import sys
from pathlib import Path
from cellblock_engine import Engine
engine = Engine.open(Path(sys.argv[1]))
print("go", flush=True)
for number in range(50):
    done = engine.run(sys.argv[2], ["sh", "-c", "echo x > /f; sleep 0.01; cat /f"])
"""
PULL = """
import sys
from pathlib import Path
from cellblock_engine import Engine
engine = Engine.open(Path(sys.argv[1]))
import cellblock_engine.registry.pull
print("go", flush=True)
engine.pull(sys.argv[2])
"""


def crash(
    program: str, home: Path, run: Path, image: str, victim: Victim, chance: random.Random
) -> None:
    """Start a client, kill ``victim`` at a random moment of its work, and wait for its end."""
    argv = [sys.executable, "-c", program, str(home), image]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"go\n"
        time.sleep(chance.uniform(0, 0.12))
        pid = client.pid if victim == "client" else _of_engine(home, run, victim, chance)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim != "client":
            time.sleep(chance.uniform(0, 0.05))
            client.kill()  # its remaining runs do not matter
        client.communicate(timeout=30)


def _of_engine(home: Path, run: Path, victim: Victim, chance: random.Random) -> int | None:
    """Return a process of this kind: a spawner, a child of one, or a child of such a child."""
    pids = set(leaks.engine_pids(home, run))
    depth: dict[int, int] = {}
    for pid in pids:
        ancestor, steps = _parent(pid), 0
        while ancestor in pids:
            ancestor, steps = _parent(ancestor), steps + 1
        depth[pid] = steps
    wanted = {"spawner": 0, "monitor": 1, "init": 2}[victim]
    found = [pid for pid in pids if depth[pid] == wanted]
    return chance.choice(found) if found else None


def _parent(pid: int) -> int:
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return int(words[1])
