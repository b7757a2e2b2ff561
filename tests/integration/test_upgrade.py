"""Two versions of cellblock on one store, as after an upgrade: the older one's containers go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import cellblock_engine
from cellblock_engine import Conflict, Engine, Limits, RunRequest, StartFailed, Unsupported
from cellblock_engine.runtime import launcher
from cellblock_engine.runtime.spec import PROTOCOL
from support import leaks

pytestmark = pytest.mark.usefixtures("root")

OLD = PROTOCOL - 1
SLEEP = ("sh", "-c", "echo here; trap 'exit 7' TERM; while :; do sleep 0.1; done")
START = """
import sys
from pathlib import Path
from cellblock_engine import Engine, RunRequest
for name in sys.argv[2:]:
    request = RunRequest(argv={argv!r}, name=name)
    print(Engine.open(Path(sys.argv[1])).start(request).id)
"""


class OtherVersion:
    """A copy of the engine with another protocol number, run by processes of its own."""

    def __init__(self, place: Path, home: Path) -> None:
        self.place, self.home = place, home
        source = Path(cellblock_engine.__file__).parent
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, place / "cellblock_engine", ignore=skipped)
        self.change("runtime/spec.py", f"PROTOCOL = {PROTOCOL}\n", f"PROTOCOL = {OLD}\n")

    def change(self, path: str, old: str, new: str) -> None:
        file = self.place / "cellblock_engine" / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def start(self, *names: str) -> None:
        subprocess.run(
            [sys.executable, "-c", START.format(argv=SLEEP), str(self.home), *names],
            env={**os.environ, "PYTHONPATH": str(self.place)},
            check=True,
            timeout=60,
        )

    def spawners(self) -> list[int]:
        return [pid for pid in pids() if str(self.place).encode() in command(pid)]


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def ids(engine: Engine, name: str) -> list[str]:
    return Path(f"/proc/{engine.container(name).inspect().pid}/uid_map").read_text().split()


def monitor(engine: Engine, name: str) -> int:
    pid = engine.container(name).inspect().pid
    assert pid is not None
    return parent(pid)


def eventually(condition: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def old(engine: Engine, tmp_path: Path) -> OtherVersion:
    return OtherVersion(tmp_path / "old", engine.home)


def test_both_run_and_the_new_work_is_the_new_spawners(engine, old):
    old.start("old")
    engine.start(RunRequest(argv=SLEEP, name="new"))
    assert {info.name: info.status for info in engine.containers()} == dict.fromkeys(
        ("old", "new"), "running"
    )
    names = {path.name for path in engine._layout.run.glob("spawner-*.sock")}
    assert names == {f"spawner-{OLD}.sock", f"spawner-{PROTOCOL}.sock"}
    assert ids(engine, "old") != ids(engine, "new")
    assert parent(monitor(engine, "old")) in old.spawners()
    assert parent(monitor(engine, "new")) not in old.spawners()
    launcher.dismiss_all(engine._layout)
    assert not list(engine._layout.run.glob("spawner-*.sock"))
    assert engine.container("old").exec(["echo", "on"]).stdout == b"on\n"
    engine.reset(force=True)
    assert eventually(lambda: not list(leaks.engine_pids(engine.home, engine._layout.run)))
    assert old.spawners() == []


def test_a_container_of_the_old_version_is_served_to_its_end(engine, old):
    old.start("box", "other")
    engine.run(argv=["true"])
    box = engine.container("box")
    assert box.exec(["echo", "in"]).stdout == b"in\n"
    assert eventually(lambda: [record.data for record in box.logs()] == [b"here\n"])
    with pytest.raises(Conflict, match="is running"):
        box.remove()
    assert box.stop(grace_s=30).exit_code == 7
    assert box.wait().exit_code == 7
    assert box.inspect().status == "exited"
    engine.start("box")  # by the new version, from now on
    assert parent(monitor(engine, "box")) not in old.spawners()
    box.remove(force=True)
    engine.container("other").kill(signal.SIGKILL)
    assert engine.container("other").wait().exit_code == 137
    engine.container("other").remove()
    assert engine.containers() == ()


def test_what_its_monitor_does_not_understand_is_refused_in_one_line(engine, old):
    for path in old.place.rglob("*.py"):  # a field that had another name then
        path.write_text(path.read_text().replace("ulimits", "rlimits"))
    old.start("box")
    box = engine.container("box")
    with pytest.raises(StartFailed, match=r"not understood .*engine and monitor may differ$"):
        box.exec(["true"])
    assert box.inspect().status == "running"
    assert box.stop(grace_s=30).exit_code == 7
    with pytest.raises(Conflict, match=r"settings unknown here \(rlimits\)"):
        engine.start("box")
    box.remove()


def test_a_monitor_that_knows_no_such_question_is_named(engine, old):
    for word in ("stats", "update"):
        old.change("runtime/monitor.py", f'case "{word}":', f'case "no-{word}":')
    old.start("box")
    box = engine.container("box")
    said = r"container box cannot .*not understood .*engine and monitor may differ$"
    with pytest.raises(Unsupported, match=said):
        box.stats()
    with pytest.raises(Unsupported, match=said):
        box.update(Limits(pids=50))
    assert box.inspect().limits == Limits()
    box.stop(grace_s=30)
    assert box.update(Limits(pids=50)) == Limits(pids=50)


def test_an_old_spawner_leaves_after_its_containers(engine, old):
    old.change("runtime/spawner.py", "_IDLE_S = 60.0", "_IDLE_S = 1.0")
    old.start("box")
    engine.start(RunRequest(argv=SLEEP, name="new"))
    time.sleep(2)
    assert old.spawners()  # the box is still there
    engine.container("box").remove(force=True)
    assert eventually(lambda: not old.spawners())
    assert not engine._layout.spawner_socket(OLD).exists()
    assert engine.container("new").exec(["echo", "on"]).stdout == b"on\n"


def test_two_spawners_sweep_one_store(engine, old):
    names = [f"old{number}" for number in range(4)]
    old.start(*names)
    engine.start(RunRequest(argv=SLEEP, name="new"))
    spawners = {parent(monitor(engine, "old0")), parent(monitor(engine, "new"))}
    for name in names:
        # Its spawner sweeps, and so does each that is started meanwhile.
        os.kill(monitor(engine, name), signal.SIGKILL)
        assert engine.run(argv=["echo", name]).stdout == f"{name}\n".encode()
        engine.start(RunRequest(argv=SLEEP, name=f"beside-{name}"))
    for name in names:
        assert eventually(lambda name=name: engine.container(name).inspect().status == "exited")
        assert engine.container(name).wait().exit_code == 137
    for name in ("new", *(f"beside-{name}" for name in names)):
        assert engine.container(name).exec(["echo", "on"]).stdout == b"on\n"
    assert {parent(monitor(engine, "new"))} < spawners
    assert all(Path(f"/proc/{pid}").exists() for pid in spawners)
