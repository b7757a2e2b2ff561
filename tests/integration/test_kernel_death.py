"""What a notebook says when its kernel has died: the reason in one line, and nothing made up."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from support import capabilities, kernels

OF_SIGSEGV = "the kernel ended: by SIGSEGV (exit status 139)"
OF_SIGKILL = "the kernel ended: by SIGKILL (exit status 137)"


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("death")) as made:
        made.install("plain")
        made.install("small", memory="256m")
        made.install("short", timeout="4s")
        made.install("few", pids_limit=40)
        yield made


def executed(site, name, *cells, **options):
    """Return the error outputs of a notebook whose kernel dies in its last cell."""
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(site.folder)}}
    client = NotebookClient(document, kernel_name=name, timeout=60, resources=resources, **options)
    with pytest.raises(DeadKernelError):
        client.execute()
    *before, last = document.cells
    assert not [output for cell in before for output in cell.outputs if "ename" in output]
    assert last.execution_count is None or "execution_count" in last
    return [output for output in last.outputs if output.output_type == "error"]


def only(errors):
    """Return the one error's name and line."""
    (error,) = errors
    assert error.traceback == [error.evalue]
    assert "\n" not in error.evalue
    return error.ename, error.evalue


@pytest.mark.parametrize("options", [{}, {"allow_errors": True}])
def test_out_of_memory(site, options):
    capabilities.need_memory_cgroup()
    name, line = only(executed(site, "small", "x = 1", "y = bytearray(1 << 30)", **options))
    assert name == "OutOfMemory"
    assert line.startswith(
        "the kernel ended: out of memory: the limit of 256 MiB was reached (peak "
    )
    assert line.endswith("; give it more with --memory of kernel install")
    site.assert_gone()


def test_its_time(site):
    begun = time.monotonic()
    name, line = only(executed(site, "short", "1", "import time; time.sleep(60)"))
    assert time.monotonic() - begun < 30
    assert (name, line) == (
        "TimedOut",
        "the kernel ended: timed out: the limit of 4 s passed; give it more with --timeout of "
        "kernel install",
    )
    site.assert_gone()


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import os; os.kill(os.getpid(), 9)", OF_SIGKILL),
        ("import ctypes; ctypes.string_at(0)", OF_SIGSEGV),
        ("import os; os._exit(3)", "the kernel ended: exit status 3"),
        ("import os; os._exit(0)", "the kernel ended: exit status 0"),
    ],
)
def test_its_own_hand(site, code, line):
    assert only(executed(site, "plain", code)) == ("KernelEnded", line)
    site.assert_gone()


FORKS = """
import os, time
try:
    for _ in range(60):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
except BlockingIOError:
    os._exit(1)
"""


def test_beyond_its_processes(site):
    name, line = only(executed(site, "few", FORKS))
    assert name == "PidsExceeded"
    assert line.startswith(
        "the kernel ended: exit status 1; before that, pids limit: beyond the limit of 40, "
    )
    assert line.endswith("raise it with --pids-limit of kernel install")
    site.assert_gone()


def test_nothing_from_inside_is_in_the_line(site):
    """What hostile code writes, names and sets is not repeated as the gate's own word."""
    code = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, b'EVIL')
sys.stderr.write('EVIL'); os.write(2, b'EVIL\\n')
os.environ['EVIL'] = 'EVIL'
os._exit(77)
"""
    assert only(executed(site, "plain", code)) == (
        "KernelEnded",
        "the kernel ended: exit status 77",
    )


def outputs(kc, parent, until):
    """Return the errors that were published for a cell until ``until`` is true and silence."""
    from queue import Empty

    found, done = [], False
    while True:
        try:
            message = kc.get_iopub_msg(timeout=0.3)
        except Empty:
            if done:
                return found
            done = until()
            continue
        if message["msg_type"] == "error" and message["parent_header"].get("msg_id") == parent:
            found.append(message["content"])


@pytest.mark.parametrize("how", ["shutdown", "now", "restart", "restart now", "SIGTERM"])
def test_an_end_that_was_asked_for_needs_no_reason(site, how):
    with site.kernel("plain") as (km, kc):
        (gate,) = site.gates()
        asked = kc.execute("import time; time.sleep(60)")
        time.sleep(0.5)
        km.shutdown_wait_time = 1
        if how == "SIGTERM":
            os.kill(gate, signal.SIGTERM)
        elif how.startswith("restart"):
            km.restart_kernel(now="now" in how)
        else:
            km.shutdown_kernel(now=how == "now")
        errors = outputs(kc, asked, lambda: gate not in site.gates())
        # jupyter_client interrupts before it asks for a shutdown.
        assert {error["ename"] for error in errors} <= {"KeyboardInterrupt"}
    site.assert_gone()


def test_an_interrupt_is_none(site):
    with site.kernel("plain") as (km, kc):
        asked = kc.execute("import time; time.sleep(60)")
        time.sleep(0.5)
        km.interrupt_kernel()
        (error,) = outputs(kc, asked, lambda: True)
        assert error["ename"] == "KeyboardInterrupt"
    site.assert_gone()


def test_a_kill_from_elsewhere_is_named(site):
    from cellblock_engine import Engine

    with site.kernel("plain") as (km, kc), Engine.open(site.home) as engine:
        asked = kc.execute("import time; time.sleep(60)")
        time.sleep(0.5)
        engine.container(km.provisioner._container).kill()
        (error,) = outputs(kc, asked, lambda: not km.is_alive())
        assert error["evalue"] == "the kernel ended: killed: by SIGKILL, as asked"
        assert kc.shell_channel.socket.poll(0) == 0  # and no reply is made up
    site.assert_gone()


@pytest.mark.parametrize("prints", [300, 3000])  # in ZeroMQ's queue, and beyond it in the gate's
def test_a_client_that_stalled_while_it_ended_still_gets_it(site, prints):
    import zmq

    with site.kernel("plain") as (_, kc):
        sock = zmq.Context.instance().socket(zmq.SUB)
        sock.rcvhwm, sock.rcvtimeo = 10, 5000
        sock.subscribe(b"")
        sock.connect(kc._make_url("iopub"))
        assert b"iopub_welcome" in b"".join(sock.recv_multipart())
        kc.iopub_channel.stop()  # this one would never read
        code = "import os\nfor _ in range({}): print('x' * 5000, flush=True)\nos._exit(3)"
        kc.execute(code.format(prints))
        time.sleep(1.5)  # the gate waits for three seconds
        seen = b""
        with sock:
            while b"the kernel ended: exit status 3" not in seen:
                seen = sock.recv_multipart()[-1]
    site.assert_gone()


def test_over_the_ports_of_a_kernel_that_is_only_run(site):
    from jupyter_client.blocking.client import BlockingKernelClient
    from jupyter_client.connect import write_connection_file

    file, _ = write_connection_file(str(site.runtime / "kernel-run.json"), key=b"k" * 32)
    process = subprocess.Popen(
        site.argv("plain", file), cwd=site.folder, stderr=subprocess.PIPE, text=True
    )
    kc = BlockingKernelClient()
    kc.load_connection_file(file)
    kc.start_channels()
    try:
        kc.kernel_info()  # wait_for_ready believes a kernel dead that is slow for a second
        kc.get_shell_msg(timeout=30)
        asked = kc.execute("import os; os.kill(os.getpid(), 9)")
        (error,) = outputs(kc, asked, lambda: process.poll() is not None)
        assert error["evalue"] == OF_SIGKILL
        assert process.wait(10) == 137
        assert f"cellblock: {OF_SIGKILL}\n" in process.stderr.read()
    finally:
        kc.stop_channels()
        process.kill()
        process.wait()
        process.stderr.close()
        os.unlink(file)
    site.assert_gone()


def test_a_cell_that_fails_at_the_pids_limit_is_told(site):
    code = """
import threading, time
threads = [threading.Thread(target=time.sleep, args=(1,)) for _ in range(60)]
for thread in threads: thread.start()
"""
    with site.kernel("few") as (_, kc):
        said = kernels.run(kc, code)
        assert "can't start new thread" in said
        assert said.count("cellblock: pids limit: beyond the limit of 40, starting a process") == 1
        time.sleep(1.5)
        assert kernels.run(kc, "1 / 0") == "ZeroDivisionError: division by zero"
    site.assert_gone()
