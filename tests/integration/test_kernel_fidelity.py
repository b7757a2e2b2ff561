"""What a cell can do in a kernel in a container: all that it can in a local one.

In one that is not trusted too, but for what would act on the page.
"""

from __future__ import annotations

import threading
import time

import pytest

from support import kernels
from support.kernels import run


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("fidelity")) as made:
        made.install("plain")
        made.install("untrusted", untrusted=True)
        yield made
        made.assert_gone()


ONLY_TRUSTED = pytest.mark.parametrize("kernel", ["plain"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=["plain", "untrusted"])
def kernel(site, request):
    with site.kernel(request.param) as (km, kc):
        yield km, kc


@pytest.fixture(autouse=True)
def _nothing_left_over(kernel):
    """No test reads what another has caused."""
    yield
    _, kc = kernel
    run(kc, "")
    while kc.iopub_channel.msg_ready():
        kc.get_iopub_msg(timeout=1)


def answering(kc, code, answer):
    """Execute code that asks, and return what was printed and the prompt."""
    prompts = []

    def hook(message):
        prompts.append((message["content"]["prompt"], message["content"]["password"]))
        kc.input(answer)

    return run(kc, code, allow_stdin=True, stdin_hook=hook), prompts


def messages(kc, code):
    found = []
    reply = kc.execute_interactive(code, output_hook=found.append, timeout=kernels.ANSWER_S)
    return reply, found


def control(kc, kind, content):
    """Send a request on the control channel and return its reply."""
    message = kc.session.msg(kind, content)
    kc.control_channel.send(message)
    while True:
        reply = kc.get_control_msg(timeout=kernels.ANSWER_S)
        if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            return reply


class TestInterrupt:
    def test_it_reaches_the_cell_and_only_the_kernels_own_process(self, kernel):
        km, kc = kernel
        run(kc, "import subprocess, time; child = subprocess.Popen(['sleep', '60'])")
        threading.Timer(0.5, km.interrupt_kernel).start()
        begun = time.monotonic()
        assert "KeyboardInterrupt" in run(kc, "time.sleep(20)")
        assert time.monotonic() - begun < 5
        assert run(kc, "print(child.poll()); child.kill(); child.wait()").startswith("None\n")

    def test_it_ends_a_question(self, kernel):
        km, kc = kernel
        kc.execute("input('name? ')", allow_stdin=True)
        assert kc.get_stdin_msg(timeout=10)["content"]["prompt"] == "name? "
        km.interrupt_kernel()
        assert kc.get_shell_msg(timeout=10)["content"]["ename"] == "KeyboardInterrupt"


class TestQuestions:
    def test_input(self, kernel):
        _, kc = kernel
        printed, prompts = answering(kc, "print('hello ' + input('who? '))", "you")
        assert (printed, prompts) == ("hello you\n", [("who? ", False)])

    def test_getpass(self, kernel):
        _, kc = kernel
        printed, prompts = answering(kc, "import getpass; print(getpass.getpass('pw '))", "s3")
        assert (printed, prompts) == ("s3\n", [("pw ", True)])

    def test_debug(self, kernel):
        _, kc = kernel
        run(kc, "def f():\n    inner = 42\n    1 / 0\nf()")
        answers = iter(["p inner", "q"])
        seen = run(kc, "%debug", allow_stdin=True, stdin_hook=lambda _: kc.input(next(answers)))
        assert "42" in seen


def test_completion_and_inspection(kernel):
    _, kc = kernel
    run(kc, "a_long_name = 1")
    reply = kc.complete("a_long_", reply=True, timeout=kernels.ANSWER_S)
    assert "a_long_name" in reply["content"]["matches"]
    reply = kc.inspect("a_long_name", reply=True, timeout=kernels.ANSWER_S)
    assert "int" in reply["content"]["data"]["text/plain"]


@ONLY_TRUSTED
def test_rich_output(kernel):
    _, kc = kernel
    bundle = {"text/plain": "p", "text/html": "<b>h</b>", "application/x-own+json": {"a": [1]}}
    _, found = messages(kc, f"from IPython.display import display; display({bundle!r}, raw=True)")
    (shown,) = [each for each in found if each["msg_type"] == "display_data"]
    assert shown["content"]["data"] == bundle


def test_fifty_megabytes(kernel):
    _, kc = kernel
    _, found = messages(kc, "print('x' * (50 << 20))")
    text = "".join(each["content"]["text"] for each in found if each["msg_type"] == "stream")
    assert len(text) == (50 << 20) + 1


def test_a_thread_is_heard_after_its_cell(kernel):
    _, kc = kernel
    told = run(kc, "import threading; threading.Timer(0.5, print, ['late']).start()")
    assert told == ""
    assert kc.get_iopub_msg(timeout=10)["content"]["text"].strip() == "late"


@ONLY_TRUSTED
def test_a_widget_speaks_both_ways(kernel):
    _, kc = kernel
    _, found = messages(kc, "import ipywidgets; w = ipywidgets.IntSlider(3); w")
    opened = [each for each in found if each["msg_type"] == "comm_open"]
    (model,) = [
        each["content"]["comm_id"]
        for each in opened
        if each["content"]["data"]["state"].get("_model_name") == "IntSliderModel"
    ]
    content = {"comm_id": model, "data": {"method": "update", "state": {"value": 7}}}
    kc.shell_channel.send(kc.session.msg("comm_msg", content))
    assert run(kc, "print(w.value)") == "7\n"


@ONLY_TRUSTED
def test_binary_buffers_arrive_whole(kernel):
    _, kc = kernel
    code = "from comm import create_comm; create_comm(target_name='t', buffers=[b'\\0\\xff' * 9])"
    _, found = messages(kc, code)
    (opened,) = [each for each in found if each["msg_type"] == "comm_open"]
    assert [bytes(each) for each in opened["buffers"]] == [b"\0\xff" * 9]


def test_a_subshell_answers_while_a_cell_runs(kernel):
    km, kc = kernel
    made = control(kc, "create_subshell_request", {})["content"]["subshell_id"]
    busy = kc.execute("import time; time.sleep(3)")
    time.sleep(0.3)
    message = kc.session.msg(
        "execute_request", {"code": "1 + 1", "silent": False, "store_history": False}
    )
    message["header"]["subshell_id"] = made
    begun = time.monotonic()
    kc.shell_channel.send(message)
    first = kc.get_shell_msg(timeout=kernels.ANSWER_S)
    assert first["parent_header"]["msg_id"] == message["header"]["msg_id"]
    assert time.monotonic() - begun < 2
    km.interrupt_kernel()
    assert kc.get_shell_msg(timeout=kernels.ANSWER_S)["parent_header"]["msg_id"] == busy
    assert (
        control(kc, "delete_subshell_request", {"subshell_id": made})["content"]["status"] == "ok"
    )


@ONLY_TRUSTED
def test_the_debugger_attaches_and_stops_at_a_breakpoint(kernel):
    _, kc = kernel
    seq = iter(range(1, 100))

    def debug(command, arguments=None):
        content = {"type": "request", "seq": next(seq), "command": command}
        reply = control(kc, "debug_request", {**content, "arguments": arguments or {}})
        assert reply["content"].get("success"), reply["content"]
        return reply["content"].get("body") or {}

    def event(name):
        while True:
            message = kc.get_iopub_msg(timeout=kernels.ANSWER_S)
            if message["msg_type"] == "debug_event" and message["content"]["event"] == name:
                return message["content"]["body"]

    code = "stopped_at = 1\nstopped_at += 1\n"
    debug("initialize", {"clientID": "t", "adapterID": "", "pathFormat": "path"})
    debug("attach")
    try:
        source = debug("dumpCell", {"code": code})["sourcePath"]
        debug(
            "setBreakpoints",
            {"source": {"path": source}, "breakpoints": [{"line": 2}], "sourceModified": False},
        )
        debug("configurationDone")
        asked = kc.execute(code)
        thread = event("stopped")["threadId"]
        frames = debug("stackTrace", {"threadId": thread})["stackFrames"]
        assert frames[0]["line"] == 2
        debug("continue", {"threadId": thread})
        assert kc.get_shell_msg(timeout=kernels.ANSWER_S)["parent_header"]["msg_id"] == asked
    finally:
        debug("disconnect", {"restart": False, "terminateDebuggee": False})


def test_files_in_the_notebooks_folder_are_the_users(kernel, site):
    _, kc = kernel
    assert run(kc, "import os; print(os.getcwd())") == f"{site.folder}\n"
    run(kc, "open('result', 'w').write('1')")
    assert (site.folder / "result").stat().st_uid == site.folder.stat().st_uid
