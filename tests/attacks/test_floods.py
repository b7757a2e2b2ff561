"""What code in a container uses up of its surroundings. Named by the attack's number."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest

from cellblock_engine import Engine, Limits, Removal, RunRequest, errors
from cellblock_engine.container import CAPTURE_BYTES
from cellblock_engine.layout import Layout
from support import capabilities
from support.attempts import FLOODS, FULL_MEMORY
from support.inside import assert_refused, attack, read_line

pytestmark = pytest.mark.usefixtures("root")


def test_23_file_systems_in_memory_are_full_at_their_size(
    base_engine: Engine, base_image: str
) -> None:
    outcome = attack(base_engine, base_image, FULL_MEMORY)
    assert outcome["fill /dev/shm"] == outcome["fill /dev"] == "ENOSPC"
    assert outcome["inodes /dev"] == "ENOSPC"


def test_24_floods_of_descriptors_terminals_queues_and_segments(
    base_engine: Engine, base_image: str
) -> None:
    before = Path("/proc/sysvipc/shm").read_text()
    outcome = attack(base_engine, base_image, FLOODS)
    assert_refused(outcome, "EMFILE", "ENFILE", "ENOSPC", "ENOMEM", "EIO")
    assert Path("/proc/sysvipc/shm").read_text() == before
    base_engine.run(base_image, ["python3", "-c", "import os; os.openpty()"]).check()


GIGABYTE = 1 << 30


def test_25_a_gigabyte_on_stdout(base_engine: Engine, base_home: Path, base_image: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    argv = ("head", "-c", str(GIGABYTE), "/dev/zero")
    done = base_engine.run(base_image, argv)
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert (done.exit_code, len(done.stdout)) == (0, CAPTURE_BYTES)
    assert grown_bytes < 4 * CAPTURE_BYTES
    container = base_engine.start(RunRequest(image=base_image, argv=argv))
    assert container.wait(60).exit_code == 0
    directory = Layout.default(base_home).containers / container.id
    logged = sum(path.stat().st_size for path in directory.glob("log*"))
    assert logged < 40 << 20
    last = list(container.logs())[-1]
    assert b"bytes of output were not logged" in last.data
    container.remove()


ZOMBIES = """
import os, time
for _ in range(300):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
def zombies():
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            pass
    return found
deadline = time.monotonic() + 10
while zombies() and time.monotonic() < deadline:
    time.sleep(0.05)
print(zombies())
"""


def test_27_orphans_are_reaped(base_engine: Engine, base_image: str) -> None:
    done = base_engine.run(base_image, ["python3", "-c", ZOMBIES], limits=Limits(pids=40))
    assert done.check().stdout == b"0\n", done.stderr


SPIN = """
import os, threading
def spin():
    while True: pass
for _ in range(1000):
    threading.Thread(target=spin, daemon=True).start()
    print("one", flush=True)
"""


def test_28_a_thousand_spinning_threads(base_engine: Engine, base_image: str) -> None:
    limits = Limits(cpus=0.5, pids=1100, memory="256m")
    started = time.monotonic()
    done = base_engine.run(base_image, ["python3", "-c", SPIN], limits=limits, timeout=1.5)
    assert isinstance(done.verdict, errors.TimedOut)
    assert time.monotonic() - started < 15
    started = time.monotonic()
    base_engine.run(base_image, ["true"]).check()
    assert time.monotonic() - started < 5


STUBBORN = """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
print("ready", flush=True)
while True: time.sleep(1)
"""


def test_29_a_command_that_ignores_every_signal(base_engine: Engine, base_image: str) -> None:
    request = RunRequest(image=base_image, argv=("python3", "-c", STUBBORN), removal=Removal.AT_END)
    with base_engine.spawn(request) as attached:
        assert read_line(attached.stdout) == b"ready\n"
        attached.interrupt()
        started = time.monotonic()
        ended = attached.container.stop(0.5)
        assert 0.4 < time.monotonic() - started < 10
        assert ended.exit_code == 137
    done = base_engine.run(base_image, ["python3", "-c", STUBBORN], timeout=1)
    assert isinstance(done.verdict, errors.TimedOut)
    assert done.duration_s < 20


def test_22_a_memory_bomb_in_an_exec_is_named(base_engine: Engine, base_image: str) -> None:
    capabilities.need_memory_cgroup()
    limits = Limits(memory="48m", pids=50)
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60"), limits=limits))
    try:
        bomb = "x = [bytearray(b'x') * (1 << 20) for _ in range(400)]"
        done = container.exec(["python3", "-c", bomb], timeout=30)
        assert isinstance(done.verdict, errors.OutOfMemory)
        assert done.verdict.limit_bytes == 48 << 20
    finally:
        container.remove(force=True)


CELL = """
import base64, os, pickle
class Evil:
    def __reduce__(self):
        return (os.system, ("echo evil > CANARY",))
    def _repr_mimebundle_(self, **_):
        return {
            "application/x-python-pickle": base64.b64encode(pickle.dumps(self)).decode(),
            "application/vnd.jupyter.widget-view+json": {"model_id": "os.system"},
            "application/javascript": "require('fs').writeFileSync('CANARY', '')",
            "text/plain": "__import__('os').system('touch CANARY')",
        }
Evil()
"""


def test_64_results_are_data(base_engine: Engine, base_image: str, tmp_path: Path) -> None:
    """Nothing that a cell sends is unpickled, evaluated or imported: the canary stays away."""
    from cellblock_kernel import run_cell

    canary = tmp_path / "canary"
    source = CELL.replace("CANARY", str(canary))
    events: list[object] = []
    loaded = set(sys.modules)
    run_cell(base_engine, RunRequest(image=base_image), source, events.append)
    assert "__import__('os')" in "".join(map(str, events)), "it arrived, as text"
    assert not canary.exists()
    assert "pickle" not in {name.split(".")[0] for name in set(sys.modules) - loaded}
    # What it sent does harm where it is let: in the container.
    unpickled = f"{source}\npickle.loads(pickle.dumps(Evil()))".replace(str(canary), "/canary")
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60")))
    container.exec(["python3", "-c", unpickled]).check()
    assert container.exec(["cat", "/canary"]).check().stdout == b"evil\n"
    container.remove(force=True)
