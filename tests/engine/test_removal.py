"""What becomes of a container at its end, or when its caller vanishes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cellblock_engine import (
    Conflict,
    ContainerNotFound,
    InvalidInput,
    Killed,
    Removal,
    RunRequest,
    StartFailed,
)
from cellblock_engine.layout import Layout
from cellblock_engine.linux import processes
from cellblock_engine.private import make_private
from cellblock_engine.removal import recorded_removal
from cellblock_engine.runtime import launcher, state, sweep, wire

IF_ABANDONED = Removal.IF_ABANDONED
COUNT = ("sh", "-c", "echo x >> /root/kept; cat /root/kept; cat")
CALLER = """
import sys
from pathlib import Path
from cellblock_engine import Engine, Removal, RunRequest
engine = Engine.open(Path(sys.argv[1]))
wanted = sys.argv[2]
if wanted == "new":
    argv = ("sh", "-c", "echo x >> /root/kept; cat /root/kept; cat")
    removal = Removal.IF_ABANDONED
    wanted = RunRequest(argv=argv, name="box", interactive=True, removal=removal)
attached = engine.spawn(wanted)
print(attached.container.id, flush=True)
attached.wait()
"""


@pytest.fixture
def home(tmp_path, engine):
    assert engine.info().home == tmp_path / "store"
    return tmp_path / "store"


def caller(home, wanted):
    """Return another process that runs the container in its foreground."""
    argv = [sys.executable, "-c", CALLER, str(home), wanted]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert len(process.stdout.readline().strip()) == 64
    return process


def kill(process):
    process.kill()
    process.communicate()


def ends(condition, timeout_s=10.0):
    """Tell whether the condition comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def nothing_is_left(home):
    return not any([*(home / "containers").iterdir(), *(home / "names").iterdir()])


def test_a_container_is_gone_with_its_killed_caller(engine, home):
    process = caller(home, "new")
    (info,) = engine.containers()
    kill(process)
    assert ends(lambda: nothing_is_left(home))
    assert not Path(f"/proc/{info.pid}").exists()


def test_it_stays_when_its_command_ends_and_starts_again_for_a_new_caller(engine, home):
    request = RunRequest(argv=COUNT, name="box", interactive=True, removal=IF_ABANDONED)
    with engine.spawn(request) as attached:
        assert attached.communicate(None, most_bytes=100)[0] == b"x\n"
    assert engine.container("box").inspect().exit_code == 0
    with engine.spawn("box") as attached:
        assert attached.communicate(None, most_bytes=100)[0] == b"x\nx\n"
    process = caller(home, "box")
    assert engine.container("box").inspect().status == "running"
    kill(process)
    assert ends(lambda: nothing_is_left(home))


def test_its_caller_may_go_after_its_end(engine, home):
    process = caller(home, "new")
    engine.container("box").kill()
    assert process.wait(10) == 0
    process.communicate()
    info = engine.container("box").inspect()
    assert (info.status, info.exit_code) == ("exited", 137)
    assert sweep.sweep(str(home / "containers"), str(home / "names"), str(engine.info().run))
    engine.container("box").remove()
    assert nothing_is_left(home)


def test_a_closed_connection_abandons_it_too(engine, home):
    with engine.spawn(RunRequest(argv=("sleep", "100"), removal=IF_ABANDONED)):
        pass
    assert ends(lambda: nothing_is_left(home))


def test_in_the_background_nobody_can_abandon_it(engine):
    engine.start(RunRequest(argv=("true",), name="box", removal=IF_ABANDONED))
    assert engine.container("box").wait(10).exit_code == 0
    assert engine.container("box").inspect().status == "exited"


def test_a_start_that_fails_leaves_it_to_a_living_caller(engine, home):
    engine.create(RunRequest(argv=("/nosuch",), name="box", removal=IF_ABANDONED))
    with pytest.raises(StartFailed):
        engine.spawn("box")
    directory = engine.info().home / "containers" / engine.container("box").id
    assert state.noted_caller(str(directory)) is None
    with pytest.raises(StartFailed):
        engine.spawn(RunRequest(argv=("/nosuch",), removal=IF_ABANDONED))
    assert [info.name for info in engine.containers()] == ["box"]


def monitor_pid(container_id):
    """Return the pid of a container's monitor."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(f"cellblock-monitor {container_id[:12]}".encode()):
                return int(entry.name)
    raise AssertionError("it has no monitor")


@pytest.mark.attack(70)
def test_of_a_killed_monitor_the_caller_decides(engine, home):
    """While the caller lives the container is its own; afterwards the next sweep takes it."""
    process = caller(home, "new")
    container = engine.container("box")
    os.kill(monitor_pid(container.id), signal.SIGKILL)
    assert process.wait(10) == 0
    process.communicate()
    # Its caller has gone too, after it was told: nobody recorded an end, so nobody keeps it.
    directory = str(home / "containers" / container.id)
    sock = str(Layout.default(home).monitor_socket(container.id))
    assert ends(lambda: sweep.settle(directory, sock))
    assert ends(lambda: not Path(directory).exists())  # the spawner may be at it just now


@pytest.mark.attack(70)
def test_a_living_caller_keeps_what_its_killed_monitor_left(engine, home):
    request = RunRequest(argv=COUNT, name="box", interactive=True, removal=IF_ABANDONED)
    with engine.spawn(request) as attached:
        assert select.select([attached.stdout], [], [], 10)[0]  # it has written
        os.kill(monitor_pid(attached.container.id), signal.SIGKILL)
        assert isinstance(attached.wait(10).verdict, Killed)
    assert ends(lambda: sweep.sweep(*map(str, (home / "containers", home / "names", home))))
    with engine.spawn("box") as attached:
        assert attached.communicate(None, most_bytes=100)[0] == b"x\nx\n"


def test_memory_cannot_be_kept_for_a_new_start():
    with pytest.raises(InvalidInput, match="--rm"):
        RunRequest(storage_bytes=1 << 20, removal=IF_ABANDONED)


@pytest.mark.parametrize(
    ("config", "removal"),
    [
        ({"remove": True}, Removal.AT_END),
        ({"remove": False}, Removal.NEVER),
        ({"removal": "if abandoned"}, Removal.IF_ABANDONED),
    ],
)
def test_configs_of_earlier_versions_are_read(config, removal):
    assert recorded_removal(config) is removal


def test_a_container_of_an_earlier_version_is_still_one(engine, home):
    engine.create(RunRequest(argv=("true",), name="box"))
    path = home / "containers" / engine.container("box").id / "config.json"
    plain = json.loads(path.read_text())
    del plain["removal"]
    path.write_text(json.dumps({**plain, "remove": True}))
    with engine.spawn("box") as attached:
        assert attached.wait(10).exit_code == 0
    assert nothing_is_left(home)


def test_a_process_has_an_identity_while_it_lives():
    with subprocess.Popen(["sleep", "100"]) as process:
        noted = processes.identity(process.pid)
        assert noted is not None
        assert processes.is_alive(noted)
        process.kill()
        assert ends(lambda: not processes.is_alive(noted))  # not reaped yet
        process.wait()
    assert processes.identity(process.pid) is None
    boot, _, start = noted.split("/")
    assert not processes.is_alive(f"{boot}/{os.getpid()}/{start}")


@pytest.mark.attack(73)
def test_a_container_that_is_being_started_is_not_removed_below_its_monitor(engine, home):
    container = engine.create(RunRequest(argv=("true",), name="box"))
    directory = home / "containers" / container.id
    lock = state.hold_lock(str(directory))  # as its monitor does, before it says "running"
    remover = threading.Thread(target=container.remove, kwargs={"force": True})
    remover.start()
    remover.join(0.3)
    assert remover.is_alive()
    assert directory.is_dir()
    os.close(lock)
    remover.join(10)
    assert nothing_is_left(home)


def test_a_removal_waits_for_a_start_for_a_bounded_time(engine, home, monkeypatch):
    monkeypatch.setattr("cellblock_engine.container._LAST_WORDS_S", 0.1)
    container = engine.create(RunRequest(argv=("true",), name="box"))
    lock = state.hold_lock(str(home / "containers" / container.id))
    with pytest.raises(Conflict, match="does not come to rest: try again"):
        container.remove()
    os.close(lock)
    container.remove()
    assert nothing_is_left(home)


def test_no_monitor_takes_a_container_that_is_being_removed(engine, home, monkeypatch):
    container = engine.create(RunRequest(argv=("true",), name="box"))
    directory = str(home / "containers" / container.id)
    refused = []

    def start_meanwhile(*_):
        monkeypatch.setattr(state, "_ATTEMPTS", 0)
        with pytest.raises(BlockingIOError):
            state.hold_lock(directory)
        refused.append(directory)
        return True

    monkeypatch.setattr("cellblock_engine.container.settle", start_meanwhile)
    container.remove()
    assert refused == [directory]
    with pytest.raises(FileNotFoundError):
        state.hold_lock(directory)
    assert nothing_is_left(home)


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("how", ["exec", "kill", "stop"])
def test_a_container_that_ends_while_it_is_asked_is_not_running(
    engine, home, monkeypatch, how, is_removed
):
    container = engine.create(RunRequest(argv=("true",), name="box"))
    path = str(Layout(home, engine.info().run).monitor_socket(container.id))
    make_private(engine.info().run, engine.info().run)
    connect, lost = wire.connect, []

    def connect_and_lose(*_, **__):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as monitor:
            monitor.bind(path)
            monitor.listen()
            sock = connect(path)
        os.unlink(path)
        if is_removed:
            container.remove()
        lost.append(sock)
        return sock

    monkeypatch.setattr(wire, "connect", connect_and_lose)
    ask = {"exec": lambda: container.exec(["true"]), "kill": container.kill, "stop": container.stop}
    with pytest.raises(ContainerNotFound if is_removed else Conflict, match=r"meanwhile|created"):
        ask[how]()
    assert len(lost) == 1


def test_a_start_that_is_interrupted_leaves_nothing_running(engine, home, monkeypatch):
    launch, pids = launcher.launch, []

    def launch_and_interrupt(*args):
        launch(*args).sock.close()
        box = engine.container("box")
        assert ends(lambda: box.inspect().status == "running")
        pids.append(box.inspect().pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "launch", launch_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.start(RunRequest(argv=("sleep", "60"), name="box"))
    assert nothing_is_left(home)
    assert not Path(f"/proc/{pids[0]}").exists()
