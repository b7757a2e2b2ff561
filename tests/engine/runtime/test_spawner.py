"""The spawner and its monitors, as their callers and their killers see them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cellblock_engine import Engine, ExecRequest, Killed, Removal, RunRequest
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import launcher
from support import leaks

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def layout(engine: Engine) -> Layout:
    info = engine.info()
    return Layout(info.home, info.run)


def pids(layout: Layout) -> list[int]:
    return list(leaks.engine_pids(layout.home, layout.run))


def has_not_exited(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def eventually(condition, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_it_serves_many_starts_and_leaves_when_dismissed(engine, layout):
    for _ in range(3):
        assert engine.run("host", ["true"]).exit_code == 0
    assert eventually(lambda: len(pids(layout)) == 2)  # itself and the next monitor
    launcher.dismiss(layout)
    assert eventually(lambda: not pids(layout))
    assert engine.run("host", ["true"]).exit_code == 0


def test_closing_an_engine_that_did_not_start_it_leaves_it_to_the_others(engine, layout):
    engine.run("host", ["true"])
    before = pids(layout)[0]
    with Engine.open(layout.home) as other:
        other.run("host", ["true"])
    time.sleep(0.3)
    assert before in pids(layout)


@pytest.mark.attack(70)
def test_a_killed_spawner_is_replaced_and_its_containers_live_on(engine, layout):
    container = engine.start(RunRequest(argv=("sleep", "100"), name="survivor"))
    killed = [
        pid for pid in pids(layout) if b"spawn.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    # Until it has exited its socket takes connections that nobody will answer.
    assert eventually(lambda: not any(map(has_not_exited, killed)))
    assert engine.run("host", ["echo", "again"]).stdout == b"again\n"
    assert container.exec(["echo", "alive"]).stdout == b"alive\n"
    assert container.stop(0).exit_code == 143
    container.remove()


def test_a_monitor_says_in_the_process_list_whose_it_is(engine):
    with engine.spawn(RunRequest(argv=("sleep", "100"), removal=Removal.AT_END)) as attached:
        parent = Path(f"/proc/{attached.pid}/status").read_text().partition("PPid:")[2].split()[0]
        words = Path(f"/proc/{parent}/cmdline").read_bytes().rstrip(b"\0")
        assert words == b"cellblock-monitor " + attached.container.id[:12].encode()


def test_a_damaged_record_neither_stops_others_nor_loses_what_was_written(engine, layout):
    engine.run("host", ["sh", "-c", "echo kept > /root/f"], name="damaged", remove=False)
    directory = layout.containers / engine.container("damaged").id
    (directory / "state.json").write_bytes(b"")
    launcher.dismiss(layout)
    assert eventually(lambda: not pids(layout))
    assert engine.run("host", ["true"]).exit_code == 0
    info = engine.container("damaged").inspect()
    assert (info.status, info.exit_code) == ("exited", 137)
    assert "damaged" in info.verdict
    assert (directory / "upper0/fs/root/f").read_text() == "kept\n"
    engine.container("damaged").remove()


@pytest.mark.attack(70)
def test_removing_a_container_of_a_killed_monitor_leaves_no_group_and_no_socket(engine, layout):
    container = engine.start(RunRequest(argv=("sleep", "100"), name="orphan"))
    pid = container.inspect().pid
    monitor = int(Path(f"/proc/{pid}/status").read_text().partition("PPid:")[2].split()[0])
    for each in (*pids(layout), monitor):
        with suppress(ProcessLookupError):  # a spare monitor ends with the spawner
            os.kill(each, signal.SIGKILL)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert isinstance(container.wait().verdict, Killed)
    container.remove()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/**/cellblock-{container.id[:12]}"))
    assert not layout.monitor_socket(container.id).exists()


@pytest.mark.attack(28)
def test_a_timeout_beyond_what_poll_can_count_is_a_timeout_like_any_other(engine):
    assert engine.run("host", ["true"], timeout=1e9).exit_code == 0


def test_a_signal_that_has_only_a_number_ends_the_container_and_not_its_monitor(engine):
    with engine.spawn(RunRequest(argv=("sleep", "100"), removal=Removal.AT_END)) as attached:
        attached.signal(40)
        end = attached.wait(10)
    assert end.exit_code == 168
    assert str(end.verdict) == "killed: by signal 40, as asked"


def test_an_exec_that_leaves_children_behind_times_out_all_the_same(engine):
    with engine.spawn(RunRequest(argv=("sleep", "100"), removal=Removal.AT_END)) as attached:
        begun = time.monotonic()
        result = attached.container.exec(["sh", "-c", "setsid sleep 50 & sleep 50"], timeout=0.5)
        assert time.monotonic() - begun < 5
        assert result.exit_code == 137
        assert "timed out" in str(result.verdict)


@pytest.mark.attack(17)
def test_a_command_on_its_way_in_shows_nothing_of_the_host(engine):
    """Container root stops whoever comes and reads what /proc shows of it."""
    watcher = (
        "import os, signal, time\n"
        "seen = {str(os.getpid()), '1'}\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 4\n"
        "while time.monotonic() < end:\n"
        "    for pid in set(filter(str.isdigit, os.listdir('/proc'))) - seen:\n"
        "        try:\n"
        "            os.kill(int(pid), signal.SIGSTOP)\n"
        "            mounts = open(f'/proc/{pid}/mountinfo').read()\n"
        "            words = open(f'/proc/{pid}/cmdline').read()\n"
        "            devices = open(f'/proc/{pid}/net/dev').read()\n"
        "            os.kill(int(pid), signal.SIGCONT)\n"
        "        except OSError:\n"
        "            continue\n"
        "        own = open('/proc/self/mountinfo').read()\n"
        "        print(mounts == own, devices.count(':'), words.split(chr(0))[0], flush=True)\n"
        "        seen.add(pid)\n"
    )
    request = RunRequest(argv=("python3", "-c", watcher), removal=Removal.AT_END)
    with engine.spawn(request) as attached:
        while b"ready" not in _read(attached):
            pass
        for _ in range(15):
            attached.container.spawn_exec(ExecRequest(("sleep", "0.05"))).close()
        out, _, _ = attached.communicate(None, most_bytes=100_000, timeout_s=20)
    lines = [line.split() for line in out.decode().splitlines()]
    assert len(lines) >= 5
    assert {line[0] for line in lines} == {"True"}
    assert {line[1] for line in lines} == {"1"}  # lo
    # Of one that is on its way out nothing is left to be read.
    assert {line[2] for line in lines if len(line) > 2} <= {"cellblock-monitor", "sleep"}


@pytest.mark.attack(29)
def test_code_inside_that_stops_whoever_comes_does_not_stop_the_clock(engine):
    stopper = (
        "import os, signal\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for pid in set(filter(str.isdigit, os.listdir('/proc'))) - {'1', str(os.getpid())}:\n"
        "        try: os.kill(int(pid), signal.SIGSTOP)\n"
        "        except OSError: pass\n"
    )
    request = RunRequest(argv=("python3", "-c", stopper), removal=Removal.AT_END)
    with engine.spawn(request) as attached:
        while b"ready" not in _read(attached):
            pass
        begun = time.monotonic()
        result = attached.container.exec(["sleep", "60"], timeout=1)
        assert time.monotonic() - begun < 6
        assert (result.exit_code, str(result.verdict)) == (
            137,
            "timed out: the limit of 1 s passed; give it more with --timeout",
        )
        assert engine.container(attached.container.id).inspect().status == "running"
        attached.kill()
        attached.wait(10)
    assert engine.containers() == ()


def _read(attached) -> bytes:
    try:
        return os.read(attached.stdout, 100)
    except BlockingIOError:
        time.sleep(0.01)
        return b""


@pytest.mark.attack(70)
def test_a_spawner_that_dies_before_the_request_is_sent_is_replaced(engine, layout, monkeypatch):
    connect, calls = launcher._connect, itertools.count()

    def connect_and_kill(layout):
        launched = connect(layout)
        if next(calls) % 2 == 0:
            victims = []
            for number in (signal.SIGSTOP, signal.SIGKILL):
                victims = pids(layout)  # with the monitor it may have been forking
                for pid in victims:
                    with suppress(ProcessLookupError):  # that of the last run goes by itself
                        os.kill(pid, number)
            assert eventually(lambda: not any(map(has_not_exited, victims)))
        return launched

    monkeypatch.setattr(launcher, "_connect", connect_and_kill)
    for _ in range(10):
        done = engine.run("host", ["echo", "once"])
        assert (done.exit_code, done.stdout) == (0, b"once\n")
    assert next(calls) == 20
    assert engine.containers() == ()


def test_a_client_that_goes_after_the_command_is_no_matter_to_its_monitor(engine, layout):
    """It was reaped, and its unread output is still being delivered, when the client dies."""
    argv = ("sh", "-c", "head -c 100000 /dev/zero")
    attached = engine.spawn(RunRequest(argv=argv, name="box"))
    assert eventually(lambda: not has_not_exited(attached.pid))
    attached.container.kill()  # a signal that comes too late reaches nobody
    attached.close()
    assert eventually(lambda: engine.container("box").inspect().status == "exited", 5)
    info = engine.container("box").inspect()
    assert (info.exit_code, info.verdict) == (0, None)
    assert (layout.run / "spawner.log").read_text() == ""


KILLED_WHILE_IT_ASKS = """
import os, sys
from pathlib import Path
from cellblock_engine import Engine
from cellblock_engine.runtime import launcher
launcher._ask_for_groups = lambda *_: os.kill(os.getpid(), 9)
Engine.open(Path(sys.argv[1])).run("host", ["true"])
"""


@pytest.mark.attack(70)
def test_a_spawner_whose_starter_was_killed_makes_way_for_another(engine, layout):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_IT_ASKS, str(layout.home)], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert eventually(lambda: pids(layout))
    first = pids(layout)
    for _ in range(2):
        ran = engine.run("host", ["echo", "once"])
        assert (ran.exit_code, ran.stdout) == (0, b"once\n")
        assert eventually(lambda: not any(map(has_not_exited, first)), 20)
