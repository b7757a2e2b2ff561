"""The engine and its containers through their public door, on the host image."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from cellblock_engine import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    ContainerNotFound,
    ExecRequest,
    ImageNotFound,
    InvalidInput,
    Killed,
    LimitNotEnforceable,
    Limits,
    OutOfMemory,
    PidsExceeded,
    Removal,
    RunRequest,
    StartFailed,
    TimedOut,
)

pytestmark = pytest.mark.usefixtures("root")


def read_some(fd: int) -> bytes:
    select.select([fd], [], [], 10)
    return os.read(fd, 100)


def sh(text: str) -> tuple[str, str, str]:
    return ("sh", "-c", text)


def test_run_returns_status_and_both_outputs(engine):
    result = engine.run("host", sh("echo out; echo err >&2; exit 3"))
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert result.verdict is None
    assert engine.containers() == ()


def test_stdin_of_any_size_goes_in_and_comes_out(engine):
    content = os.urandom(3 << 20)
    assert engine.run("host", ["cat"], stdin=content).stdout == content


def test_stdin_that_is_not_read_is_no_error(engine):
    assert engine.run("host", ["true"], stdin=b"x" * (4 << 20)).exit_code == 0


def test_without_stdin_there_is_none(engine):
    assert engine.run("host", ["cat"]).stdout == b""


def test_a_signal_death_has_dockers_status(engine):
    assert engine.run("host", sh("kill -SEGV $$")).exit_code == 139


def test_environment_directory_user_and_hostname(engine):
    result = engine.run(
        "host",
        sh('echo "$A|$HOME|$PWD|$(id -u):$(id -g)|$(hostname)"'),
        env={"A": "b c"},
        workdir="/made/for/it",
        user="daemon",
        hostname="lab",
    )
    assert result.stdout == b"b c|/usr/sbin|/made/for/it|1:1|lab\n"


@pytest.mark.attack(18)
def test_nothing_of_the_callers_environment_gets_in(engine, monkeypatch):
    monkeypatch.setenv("JUPYTER_TOKEN", "secret")
    assert b"secret" not in engine.run("host", ["env"]).stdout


@pytest.mark.parametrize("user", ["nosuch", "0:nosuch", "4294967296", "70000", "a" * 300])
def test_a_user_the_container_does_not_know(engine, user):
    with pytest.raises(StartFailed, match="cannot start as user"):
        engine.run("host", ["true"], user=user)


def test_a_user_without_an_entry_is_taken_by_number(engine):
    assert engine.run("host", ["id", "-u"], user="54321").stdout == b"54321\n"


def test_a_command_that_is_not_there_or_not_executable(engine):
    with pytest.raises(CommandNotFound) as missing:
        engine.run("host", ["nosuch"])
    with pytest.raises(CommandNotExecutable) as refused:
        engine.run("host", ["/etc/passwd"])
    assert (missing.value.exit_status, refused.value.exit_status) == (127, 126)
    assert "\n" not in str(missing.value) + str(refused.value)
    assert engine.containers() == ()


def test_out_of_memory_ends_the_container_and_says_limit_and_peak(engine):
    result = engine.run(
        "host", ["python3", "-c", "x = bytearray(300 << 20)"], limits=Limits(memory="64m")
    )
    assert result.exit_code == 137
    assert isinstance(result.verdict, OutOfMemory)
    assert result.verdict.own
    assert result.verdict.limit_bytes == 64 << 20
    assert 60 << 20 < result.verdict.peak_bytes <= 64 << 20
    with pytest.raises(OutOfMemory):
        result.check()


def test_the_pids_limit_refuses_and_is_named(engine):
    fork = "import os,time\nfor _ in range(50):\n  if not os.fork(): time.sleep(3); os._exit(0)"
    result = engine.run("host", ["python3", "-c", fork], limits=Limits(pids=12))
    assert result.exit_code == 1
    assert isinstance(result.verdict, PidsExceeded)
    assert result.verdict.limit == 12


@pytest.mark.attack(28)
def test_the_cpus_limit_is_a_quota_of_the_kernels(engine):
    spin = (
        "import time,resource\nt=time.monotonic()\nwhile time.monotonic()-t<1: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    result = engine.run("host", ["python3", "-c", spin], limits=Limits(cpus=0.2))
    assert float(result.stdout) < 0.6


@pytest.mark.attack(28, 29)
def test_the_wall_clock_limit_interrupts_then_kills(engine):
    begun = time.monotonic()
    result = engine.run("host", ["sleep", "60"], timeout=0.3)
    assert isinstance(result.verdict, TimedOut)
    assert result.exit_code == 130
    stubborn = engine.run("host", sh("trap '' INT TERM; while :; do sleep 1; done"), timeout=0.3)
    assert isinstance(stubborn.verdict, TimedOut)
    assert stubborn.exit_code == 137
    assert time.monotonic() - begun < 20


def test_a_lasting_container_runs_logs_executes_and_stops(engine):
    container = engine.start(RunRequest(argv=sh("echo hello; exec sleep 100"), name="lab"))
    info = container.inspect()
    assert (info.name, info.status, info.image) == ("lab", "running", "host")
    assert Path(f"/proc/{info.pid}").exists()
    inside = container.exec(sh("echo $$; cat; exit 4"), stdin=b"in")
    assert (inside.exit_code, inside.stdout) == (4, b"3\nin")
    assert b"".join(record.data for record in container.logs()) == b"hello\n"
    with pytest.raises(Conflict, match="is running"):
        container.remove()
    end = container.stop(5)
    assert end.exit_code == 143
    assert isinstance(end.verdict, Killed)
    assert container.stop(5).exit_code == 143
    assert container.wait().exit_code == 143
    with pytest.raises(Conflict, match="not running"):
        container.exec(["true"])
    with pytest.raises(Conflict, match="not running"):
        container.kill()
    container.remove()
    with pytest.raises(ContainerNotFound, match="lab"):
        engine.container("lab")


def test_what_was_written_stays_until_it_is_removed(engine):
    result = engine.run("host", sh("echo kept > /root/file"), name="keeper", remove=False)
    assert result.exit_code == 0
    directory = engine.info().home / "containers" / result.container_id
    assert (directory / "upper0/fs/root/file").read_text() == "kept\n"
    assert engine.container("keeper").inspect().status == "exited"
    engine.container(result.container_id[:10]).remove()
    assert not directory.exists()


def test_the_hosts_own_files_are_written_to_in_the_container_only(engine, tmp_path):
    result = engine.run("host", sh("echo x > /usr/bin/evil && rm /usr/bin/env && ls /usr/bin/evil"))
    assert result.exit_code == 0
    assert not Path("/usr/bin/evil").exists()
    assert Path("/usr/bin/env").exists()


def test_a_name_in_use_is_a_conflict_and_changes_nothing(engine):
    engine.run("host", ["true"], name="taken", remove=False)
    with pytest.raises(Conflict, match="'taken' is in use"):
        engine.run("host", ["true"], name="taken")
    assert [info.name for info in engine.containers()] == ["taken"]


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: RunRequest(name="../../x"),
        lambda: RunRequest(name=""),
        lambda: RunRequest(hostname="a b"),
        lambda: RunRequest(network="bridge2"),
        lambda: RunRequest(env={"A=B": "c"}),
        lambda: RunRequest(env={"A": "b\0c"}),
        lambda: RunRequest(argv=("a\0b",)),
        lambda: RunRequest(workdir="relative"),
        lambda: RunRequest(timeout_s=0),
        lambda: Limits(memory="64x"),
        lambda: Limits(memory="1k"),
        lambda: Limits(cpus=0),
        lambda: Limits(pids=0),
        lambda: Limits(pids=4_194_305),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(request_of):
    with pytest.raises(InvalidInput) as refused:
        request_of()
    assert "\n" not in str(refused.value)


def test_more_processors_than_there_are_is_refused_in_one_line(engine):
    with pytest.raises(LimitNotEnforceable, match=r"^cpus limit 10000 is more than the \d+ proc"):
        engine.run("host", ["true"], limits=Limits(cpus=10_000))
    assert engine.containers() == ()


def test_an_unknown_image_names_what_to_do(engine):
    with pytest.raises(ImageNotFound, match="pull"):
        engine.run("nosuch:1", ["true"])
    assert engine.containers() == ()


def test_several_names_for_one_container(engine):
    engine.run("host", ["true"], name="one", remove=False)
    engine.run("host", ["true"], name="two", remove=False)
    ids = {info.name: info.id for info in engine.containers()}
    assert engine.container(ids["one"]).name == "one"
    assert engine.container(ids["two"][:12]).name == "two"
    for bad in ("../names/one", "", ".", "one/", "zz"):
        with pytest.raises(ContainerNotFound):
            engine.container(bad)


def test_a_foreground_container_ends_when_it_is_closed(engine):
    with engine.spawn(RunRequest(argv=("sleep", "100"), removal=Removal.AT_END)) as attached:
        pid = attached.container.inspect().pid
    deadline = time.monotonic() + 5
    while engine.containers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.containers() == ()
    assert not Path(f"/proc/{pid}").exists()


def test_signals_reach_the_command(engine):
    argv = sh("trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    with engine.spawn(RunRequest(argv=argv, removal=Removal.AT_END)) as attached:
        assert read_some(attached.stdout) == b"ready\n"
        attached.signal(signal.SIGUSR1)
        out, _, end = attached.communicate(None, most_bytes=1000, timeout_s=10)
    assert (out, end.exit_code, end.verdict) == (b"got\n", 7, None)


def test_an_interrupt_reaches_what_the_command_started(engine):
    program = (
        "import signal, subprocess\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print('ready', flush=True)\n"
        "print(child.wait())"
    )
    with engine.spawn(
        RunRequest(argv=("python3", "-c", program), removal=Removal.AT_END)
    ) as attached:
        assert read_some(attached.stdout) == b"ready\n"
        attached.interrupt()
        out, _, end = attached.communicate(None, most_bytes=100, timeout_s=10)
    assert (out, end.exit_code) == (b"-2\n", 0)


def test_channels_are_descriptors_three_and_four(engine):
    argv = ("python3", "-c", "import os; os.write(4, os.read(3, 100).upper())")
    request = RunRequest(argv=argv, channels=("in", "out"), removal=Removal.AT_END)
    with engine.spawn(request) as attached:
        os.write(attached.channels[0], b"through")
        assert read_some(attached.channels[1]) == b"THROUGH"
        assert attached.wait(10).exit_code == 0


@pytest.mark.attack(8, 18)
def test_nothing_else_is_open_in_a_command(engine):
    list_fds = ("python3", "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")
    with engine.spawn(RunRequest(argv=("sleep", "100"), removal=Removal.AT_END)) as attached:
        for result in (engine.run("host", list_fds), attached.container.exec(list_fds)):
            assert json.loads(result.stdout) == [0, 1, 2, 3]  # 3 is the listing itself


def test_any_user_may_reopen_its_own_standard_output(engine):
    result = engine.run("host", sh("echo by-name > /dev/stdout"), user="daemon")
    assert result.stdout == b"by-name\n"


def test_an_exec_that_is_given_up_ends_alone(engine):
    with engine.spawn(RunRequest(argv=("sleep", "100"), removal=Removal.AT_END)) as attached:
        container = attached.container
        started = container.spawn_exec(ExecRequest(("sleep", "99")))
        host_pid = started.pid
        started.close()
        deadline = time.monotonic() + 5
        while Path(f"/proc/{host_pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{host_pid}").exists()
        assert container.inspect().status == "running"
        with pytest.raises(CommandNotFound):
            container.exec(["nosuch"])
        timed_out = container.exec(["sleep", "99"], timeout=0.2)
        assert isinstance(timed_out.verdict, TimedOut)


def test_it_works_in_a_running_event_loop_and_from_threads(engine):
    async def in_loop() -> bytes:
        return engine.run("host", ["echo", "loop"]).stdout

    assert asyncio.run(in_loop()) == b"loop\n"
    outputs: dict[int, bytes] = {}

    def work(number: int) -> None:
        outputs[number] = engine.run("host", ["echo", str(number)]).stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {number: f"{number}\n".encode() for number in range(8)}


@pytest.mark.attack(25)
def test_output_beyond_the_cap_is_dropped_not_kept(engine, monkeypatch):
    import cellblock_engine.engine as module

    monkeypatch.setattr(module, "CAPTURE_BYTES", 1000)
    result = engine.run("host", sh("head -c 5000000 /dev/zero"))
    assert (result.exit_code, len(result.stdout)) == (0, 1000)


@pytest.mark.attack(70, 74)
def test_killing_the_monitor_ends_the_container_and_the_next_start_sweeps(engine):
    attached = engine.spawn(RunRequest(argv=("sleep", "100"), name="victim"))
    info = attached.container.inspect()
    status = Path(f"/proc/{info.pid}/status").read_text()
    monitor = int(status.partition("PPid:")[2].split()[0])
    groups = list(Path("/sys/fs/cgroup").glob(f"*/**/cellblock-{info.id[:12]}"))
    assert groups
    os.kill(monitor, signal.SIGKILL)
    end = attached.wait(10)
    assert isinstance(end.verdict, Killed)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{info.pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{info.pid}").exists()
    attached.close()
    found = engine.container("victim").inspect()
    assert (found.status, found.exit_code) == ("exited", 137)
    assert "monitor" in found.verdict
    while any(group.exists() for group in groups) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(group.exists() for group in groups)
    engine.container("victim").remove()
