"""A kernelspec's argv run by a front end that ignores provisioners, over TCP, as VS Code does it.

VS Code itself is emulated: a connection file with ports of the loopback device, a subprocess in the
notebook's folder, SIGINT for interrupts.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from support import kernels
from support.kernels import run


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("argv")) as made:
        made.install("plain")
        yield made


@contextmanager
def launched(site, name="plain", prefix=(), **kwargs):
    """Yield the process and a client that has heard of the kernel."""
    from jupyter_client.blocking.client import BlockingKernelClient
    from jupyter_client.connect import write_connection_file

    file, _ = write_connection_file(str(site.runtime / "kernel-vs.json"), key=b"k" * 32)
    process = subprocess.Popen(
        [*prefix, *site.argv(name, file)],
        cwd=site.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **kwargs,
    )
    client = BlockingKernelClient()
    client.load_connection_file(file)
    client.start_channels(hb=False)  # on a busy machine a start takes longer than a heartbeat
    try:
        yield process, client
    finally:
        client.stop_channels()
        with open(file, "w"):
            os.unlink(file)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def output_of(process):
    return process.stdout.read().decode()


def test_execute_interrupt_and_a_polite_end(site):
    with launched(site) as (process, kc):
        kc.wait_for_ready(timeout=30)
        assert run(kc, "import os; print(os.getcwd())") == f"{site.folder}\n"
        kc.execute("import time; time.sleep(30)", stop_on_error=False)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert kc.get_shell_msg(timeout=10)["content"]["ename"] == "KeyboardInterrupt"
        assert run(kc, "print(1)") == "1\n"
        kc.shutdown()
        assert process.wait(10) == 0
        assert "Traceback" not in output_of(process)
    site.assert_gone()


def test_it_listens_on_the_loopback_device_only(site):
    with launched(site) as (process, kc):
        kc.wait_for_ready(timeout=30)
        inodes = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{process.pid}/fd")}
        with open("/proc/net/tcp") as file:
            rows = [line.split() for line in file][1:]
        own = {row[1].partition(":")[0] for row in rows if f"socket:[{row[9]}]" in inodes}
        assert own == {f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}"}


def test_interrupts_from_the_first_moment_on_do_not_end_it(site):
    with launched(site) as (process, kc):
        time.sleep(0.25)  # Python itself is up
        for _ in range(40):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        kc.wait_for_ready(timeout=30)
        assert run(kc, "print(1)") == "1\n"


@pytest.mark.parametrize("deaf", [False, True])
def test_sigterm_ends_it_within_a_bound(site, deaf):
    with launched(site) as (process, kc):
        kc.wait_for_ready(timeout=30)
        if deaf:
            run(kc, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
        process.terminate()
        process.wait(8)
        assert "Traceback" not in output_of(process)
    site.assert_gone()


def test_sigkill_of_the_launcher_leaves_a_room_and_nothing_else(site):
    with launched(site) as (process, kc):
        kc.wait_for_ready(timeout=30)
        container = run(kc, "import socket; print(socket.gethostname())").strip()
        assert kernels.cgroups_of(container)
        process.kill()
        process.wait()
    deadline = time.monotonic() + kernels.GONE_S
    while set(site.left()) - {"rooms"} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert set(site.left()) <= {"rooms"}
    assert not kernels.cgroups_of(container)
    with launched(site) as (process, kc):  # sweeps
        kc.wait_for_ready(timeout=30)
        kc.shutdown()
        process.wait(10)
    site.assert_gone()


WRAPPER = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(60)"


def test_it_ends_with_whoever_started_it(site):
    with launched(site, prefix=(sys.executable, "-c", WRAPPER)) as (parent, kc):
        kc.wait_for_ready(timeout=30)
        assert site.gates()
        parent.kill()
        deadline = time.monotonic() + kernels.GONE_S
        while site.gates() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not site.gates()
    site.assert_gone()


def test_a_start_that_fails_says_one_line(site):
    site.install("bad", image="nowhere.invalid/nothing:1")
    with launched(site, "bad") as (process, _):
        assert process.wait(10) == 125
        (line,) = output_of(process).splitlines()
        assert line.startswith("cellblock: ")
        assert "nothing" in line
    site.assert_gone()


def test_a_port_that_is_taken_is_one_line(site):
    with launched(site) as (_process, kc):
        kc.wait_for_ready(timeout=30)
        second = subprocess.run(
            site.argv("plain", site.runtime / "kernel-vs.json"),
            cwd=site.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert second.returncode == 125
        (line,) = second.stderr.splitlines()
        assert "Address already in use" in line


def test_a_host_cell_and_its_interrupt(site):
    with launched(site) as (process, kc):
        kc.wait_for_ready(timeout=30)
        assert "memory:" in run(kc, "%container limits")
        asked = kc.execute("\n".join(["%container stats"] * 90))
        while kc.get_iopub_msg(timeout=30)["msg_type"] != "display_data":
            pass
        process.send_signal(signal.SIGINT)
        reply = kc.get_shell_msg(timeout=10)
        assert reply["parent_header"]["msg_id"] == asked
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert run(kc, "print(1)") == "1\n"
