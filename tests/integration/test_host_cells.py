"""Cells of ``%container`` in notebooks whose kernel is in a container."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import nbformat
import pytest

from support import capabilities, kernels
from support.kernels import run

TESTS = Path(__file__).parents[1]
# Some tenths of a second each, and no reason to end before the test does.
LONG = "\n".join(["%container stats"] * 90)
SHELL = (sys.executable, "-m", "support.shell_kernel", "-f", "{connection_file}")
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("host-cells")) as made:
        made.install("plain")
        made.install("limited", memory="512m")
        made.install(
            "shell",
            argv=["env", f"PYTHONPATH={TESTS}", *SHELL],
            volume=(f"{TESTS}:{TESTS}:ro",),
        )
        yield made
        made.assert_gone()


@pytest.fixture(scope="module")
def kernel(site):
    with site.kernel("plain") as (km, kc):
        yield km, kc


@pytest.fixture(autouse=True)
def _nothing_left_over(request):
    """No test reads what another has caused."""
    yield
    if "kernel" in request.fixturenames:
        _, kc = request.getfixturevalue("kernel")
        run(kc, "")
        for channel in (kc.iopub_channel, kc.shell_channel, kc.control_channel):
            while channel.msg_ready():
                channel.get_msg(timeout=1)


def host_processes(site):
    """Return the pids of this site's processes that carry out a cell."""
    own = b"CELLBLOCK_HOME=" + os.fsencode(site.home)
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        and b"cellblock.hostcell" in kernels._words(int(entry.name), "cmdline")
        and own in kernels._words(int(entry.name), "environ")
    ]


def wait_for(condition, timeout_s=kernels.GONE_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def replies(kc, count):
    """Return what is answered on the shell: by request, the content."""
    found = [kc.get_shell_msg(timeout=kernels.ANSWER_S) for _ in range(count)]
    return {each["parent_header"]["msg_id"]: each["content"] for each in found}


def control(kc, kind, content):
    message = kc.session.msg(kind, content)
    kc.control_channel.send(message)
    while True:
        reply = kc.get_control_msg(timeout=kernels.ANSWER_S)
        if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            return reply["content"]


def begin(site, kc, *later):
    """Ask for a long cell, and later ones; return its id, or all, once it is under way.

    By then the gate has the later ones too: between lies a turn of the kernel's.
    """
    asked = [kc.execute(cell) for cell in (LONG, *later)]
    wait_for(lambda: host_processes(site), kernels.ANSWER_S)
    return asked if later else asked[0]


def facts(text):
    return dict(line.split(":", 1) for line in text.splitlines())


class TestVerbs:
    def test_info_is_of_this_container(self, kernel, site):
        km, kc = kernel
        found = {name: value.strip() for name, value in facts(run(kc, "%container info")).items()}
        assert found["id"] == km.provisioner._container
        assert (found["image"], found["network"]) == ("host", "none")
        assert found["workspace"] == f"{site.folder} (rw)"
        hostname = run(kc, "import socket; print(socket.gethostname())").strip()
        assert found["id"].startswith(hostname)

    def test_stats_are_what_the_kernel_uses(self, kernel):
        _, kc = kernel
        run(kc, f"held = b'x' * ({150 * MEBIBYTE})")
        shown = []
        kc.execute_interactive("%container stats --json", output_hook=shown.append, timeout=30)
        (data,) = [m["content"]["data"] for m in shown if m["msg_type"] == "display_data"]
        (row,) = json.loads(data["text/plain"])
        assert 150 * MEBIBYTE < row["memory_bytes"] < 500 * MEBIBYTE
        assert row["cpu_seconds"] > 0.1
        assert row["pids"] >= 1
        run(kc, "del held")

    def test_logs_are_the_kernels_own(self, kernel):
        _, kc = kernel
        run(kc, "import os, sys; os.write(sys.stdout._original_stdstream_copy, b'beside cells\\n')")
        assert "beside cells" in run(kc, "%container logs")

    def test_another_container_is_not_reached(self, kernel, site):
        from cellblock_engine import Engine, RunRequest

        _, kc = kernel
        with Engine.open(site.home) as engine:
            other = engine.create(RunRequest("host", ("true",)))
            try:
                for verb in ("limits", "stats", "logs", "info"):
                    said = run(kc, f"%container {verb} {other.name}")
                    assert said.startswith(f"InvalidInput: '{other.name}' is not this notebook's")
                for verb in ("stop", "rm -f", "exec"):
                    assert "is not for a notebook" in run(kc, f"%container {verb} {other.name}")
                assert other.inspect().status == "created"
            finally:
                other.remove()


def test_limits_change_while_the_kernel_runs_and_hold(site):
    capabilities.need_memory_cgroup()
    grab = "held = b'x' * ({} << 20); print('held')"
    with site.kernel("limited") as (km, kc):
        group = memory_limit(km.provisioner._container)
        assert int(group.read_text()) == 512 * MEBIBYTE
        assert run(kc, grab.format(250)) == "held\n"
        run(kc, "del held")
        assert "memory:   256 MiB" in run(kc, "%container limits --memory 256m --pids-limit 99")
        assert int(group.read_text()) == 256 * MEBIBYTE
        assert "pids:     99" in run(kc, "%container limits")
        kc.execute(grab.format(250))
        wait_for(lambda: not km.is_alive(), 20)
        km.restart_kernel(now=True)
        kc.wait_for_ready(timeout=kernels.ANSWER_S)
        assert "memory:   256 MiB" in run(kc, "%container limits")
        run(kc, "%container limits -m 1g")
        assert run(kc, grab.format(600)) == "held\n"


def memory_limit(container):
    (found,) = [
        group / name
        for group in kernels.cgroups_of(container)
        for name in ("memory.limit_in_bytes", "memory.max")
        if (group / name).exists()
    ]
    return found


def test_a_kernel_of_this_machine_is_no_image(kernel):
    _, kc = kernel
    said = run(kc, "%container commit mine/box")
    assert said.startswith("Unsupported: ")
    assert "use a container of an image, or make one" in said


class TestTurn:
    def test_run_all_with_a_failure_before_it(self, kernel, site):
        _, kc = kernel
        cells = ["import time; time.sleep(0.5); 1 / 0", "%container limits --memory 3g", "x = 1"]
        asked = [kc.execute(cell) for cell in cells]
        found = replies(kc, 3)
        assert [found[each]["status"] for each in asked] == ["error", "aborted", "aborted"]
        assert "3 GiB" not in run(kc, "%container limits")

    def test_run_all_with_its_own_failure(self, kernel):
        _, kc = kernel
        asked = [kc.execute(cell) for cell in ("a = 1", "%container limits -m 1k", "a = 2")]
        found = replies(kc, 3)
        assert [found[each]["status"] for each in asked] == ["ok", "error", "aborted"]
        failed = found[asked[1]]
        assert failed["traceback"] == [f"InvalidInput: {failed['evalue']}"]
        assert run(kc, "print(a)") == "1\n"
        run(kc, "%container limits -m 1k", stop_on_error=False)

    def test_it_waits_for_a_cell_that_sleeps_and_later_cells_for_it(self, kernel, site):
        _, kc = kernel
        stamp = "import time; {}; ended = time.time()"
        kc.execute(stamp.format("time.sleep(1)"))
        asked = kc.execute("%container stats")
        later = kc.execute("import time; begun = time.time()")
        time.sleep(0.5)
        assert host_processes(site) == []
        wait_for(lambda: host_processes(site))
        found = replies(kc, 3)
        assert [found[each]["status"] for each in (asked, later)] == ["ok", "ok"]
        assert list(found) == sorted(found, key=list(found).index)
        # The process alone takes this long to start.
        assert float(run(kc, "print(begun - ended)")) > 0.1

    def test_counts_go_on(self, kernel):
        _, kc = kernel
        counts = []
        for cell in ("1", "%container limits", "%container nothing", "%container", "2"):
            reply = kc.execute_interactive(cell, output_hook=lambda _: None, timeout=30)
            counts.append(reply["content"]["execution_count"])
        assert counts == list(range(counts[0], counts[0] + 5))
        assert run(kc, f"print(Out[{counts[-1]}])") == "2\n"

    def test_a_question_of_another_shell_is_asked_meanwhile(self, kernel, site):
        _, kc = kernel
        made = control(kc, "create_subshell_request", {})["subshell_id"]
        own = begin(site, kc)
        message = kc.session.msg(
            "execute_request",
            {"code": "said = input('who? ')", "silent": False, "allow_stdin": True},
        )
        message["header"]["subshell_id"] = made
        kc.shell_channel.send(message)
        assert kc.get_stdin_msg(timeout=10)["content"]["prompt"] == "who? "
        kc.input("me")
        (answered,) = replies(kc, 1)
        assert answered == message["header"]["msg_id"]
        assert host_processes(site)
        assert control(kc, "interrupt_request", {})["status"] == "ok"
        assert replies(kc, 1)[own]["ename"] == "KeyboardInterrupt"
        assert run(kc, "print(said)") == "me\n"
        control(kc, "delete_subshell_request", {"subshell_id": made})

    def test_a_question_before_it_is_answered(self, kernel):
        _, kc = kernel
        asked = kc.execute("said = input('? ')", allow_stdin=True)
        own = kc.execute("%container limits")
        assert kc.get_stdin_msg(timeout=10)["content"]["prompt"] == "? "
        kc.input("me")
        assert list(replies(kc, 2)) == [asked, own]

    def test_control_and_debugger_do_not_wait(self, kernel, site):
        km, kc = kernel
        own = begin(site, kc)
        begun = time.monotonic()
        assert control(kc, "kernel_info_request", {})["status"] == "ok"
        who = {"clientID": "t", "adapterID": "", "pathFormat": "path"}
        for seq, command in enumerate(("initialize", "attach", "disconnect"), 1):
            content = {"type": "request", "seq": seq, "command": command, "arguments": who}
            assert control(kc, "debug_request", content)["success"]
        assert time.monotonic() - begun < 5
        assert host_processes(site)
        km.interrupt_kernel()
        assert replies(kc, 1)[own]["status"] == "error"


class TestInterrupt:
    def test_it_ends_the_cell_and_not_the_next(self, kernel, site):
        km, kc = kernel
        own, later = begin(site, kc, "never = 1")
        begun = time.monotonic()
        km.interrupt_kernel()
        found = replies(kc, 2)
        assert time.monotonic() - begun < 4
        assert (found[own]["ename"], found[own]["traceback"]) == (
            "KeyboardInterrupt",
            ["KeyboardInterrupt"],
        )
        assert found[later] == {"status": "aborted"}
        assert host_processes(site) == []
        assert run(kc, "print('never' in globals())") == "False\n"


class TestEnd:
    @pytest.mark.parametrize("now", [False, True])
    def test_restart_and_shutdown(self, site, now):
        with site.kernel("plain") as (km, kc):
            begin(site, kc)
            begun = time.monotonic()
            km.restart_kernel(now=now)
            wait_for(lambda: not host_processes(site))
            kc.wait_for_ready(timeout=kernels.ANSWER_S)
            assert run(kc, "print(1)") == "1\n"
            assert "memory:" in run(kc, "%container limits")
            begin(site, kc)
            km.shutdown_kernel(now=now)
            assert time.monotonic() - begun < 20
            wait_for(lambda: not host_processes(site))

    def test_the_kernels_death(self, site):
        with site.kernel("plain") as (km, kc):
            pid = int(run(kc, "import os; print(os.getpid())"))
            made = control(kc, "create_subshell_request", {})["subshell_id"]
            begin(site, kc)
            message = kc.session.msg("execute_request", {"code": f"os.kill({pid}, 9)"})
            message["header"]["subshell_id"] = made
            kc.shell_channel.send(message)
            wait_for(lambda: not km.is_alive())
            assert host_processes(site) == []

    def test_the_gates_death(self, site):
        with site.kernel("plain") as (km, kc):
            gates = set(site.gates())
            begin(site, kc)
            (gate,) = [pid for pid in gates if pid == km.provisioner.pid]
            os.kill(gate, signal.SIGKILL)
            wait_for(lambda: not host_processes(site))


def test_nothing_of_the_notebooks_folder_is_loaded(kernel, site):
    _, kc = kernel
    names = ("cellblock", "cellblock_engine", "json", "sitecustomize", "pandas")
    loaded = site.folder / "loaded"
    for name in names:
        (site.folder / f"{name}.py").write_text(f"open({str(loaded)!r}, 'w')")
    try:
        assert "memory:" in run(kc, "%container limits")
        assert "Error" not in run(kc, "%container stats")
        assert not loaded.exists()
    finally:
        for name in names:
            (site.folder / f"{name}.py").unlink()


# What code in a kernel can say: on each of its sockets, as a request, as its own cell, as the next.
ATTEMPT = """
ip = get_ipython()
own, code = ip.kernel, "%container limits --memory 3g"
content = {"code": code, "execution_count": 1, "silent": False, "status": "ok"}
parent = own.get_parent("shell")
ip.set_next_input(code)
for kind in ("execute_request", "execute_input", "execute_reply"):
    own.session.send(own.iopub_socket, kind, content, parent=parent)
    for stream in (own.shell_stream, own.control_stream):
        own.session.send(stream, kind, content, parent=parent, ident=own._parent_ident["shell"])
"""


def test_code_in_a_kernel_cannot_carry_out_anything(kernel, site):
    _, kc = kernel
    before = run(kc, "%container limits")
    for _ in range(3):
        assert "Error" not in run(kc, ATTEMPT)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            assert host_processes(site) == []
    assert run(kc, "%container limits") == before
    assert "3 GiB" not in before


def test_a_kernel_of_another_language(site):
    with site.kernel("shell") as (_, kc):
        assert run(kc, "echo $((20 + 1))") == "21\n"
        shown = []
        reply = kc.execute_interactive(
            "%container limits\n# a comment", output_hook=shown.append, timeout=30
        )
        (code,) = [m["content"] for m in shown if m["msg_type"] == "execute_input"]
        assert code == {"code": "%container limits\n# a comment", "execution_count": 2}
        assert reply["content"]["execution_count"] == 2
        assert any("memory:" in m["content"].get("text", "") for m in shown)
        asked = [kc.execute(cell) for cell in ("sleep 0.5; false", "%container info", "echo")]
        found = replies(kc, 3)
        assert [found[each]["status"] for each in asked] == ["error", "aborted", "aborted"]


CELLS = ("x = 1", "%container limits --memory 700m", "x + 1", "%container stats", "x + 2")


@pytest.mark.parametrize(
    "words",
    [
        "papermill in.ipynb out.ipynb -k plain",
        "jupyter execute --kernel_name=plain --output=out.ipynb in.ipynb",
    ],
)
def test_notebooks_without_anybody_watching(site, words):
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    made = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(made, site.folder / "in.ipynb")
    done = site.execute(words)
    assert done.returncode == 0, done.stderr
    ran = nbformat.read(site.folder / "out.ipynb", as_version=4).cells
    assert [cell.execution_count for cell in ran] == [1, 2, 3, 4, 5]
    assert "memory:   700 MiB" in ran[1].outputs[0].text
    assert "700 MiB" in ran[3].outputs[0].data["text/plain"]
    assert ran[2].outputs[0].execution_count == 3
    made.cells[1].source = "%container limits -m nothing"
    nbformat.write(made, site.folder / "in.ipynb")
    done = site.execute(words)
    assert done.returncode != 0
    assert "'nothing' is not a size" in done.stderr
