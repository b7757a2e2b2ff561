"""What a hostile kernel says to the page of whoever opened it, through a real gate.

The kernel is an ipykernel in a container whose cells say what they like on its sockets, in its
name. What arrives at the client is looked at. Named by the attack's number.
"""

from __future__ import annotations

import json
import sys

import pytest

from support import kernels
from support.guarded import acts, strings

# What hostile code has at hand: any message, for any parent, to anybody.
SAY = """
import sys
from ipykernel.kernelapp import IPKernelApp
app = IPKernelApp.instance()
kernel = app.kernel
cells = globals().get("cells", [])
cells.append(kernel.get_parent())
def say(kind, content, parent=None, **more):
    parent = kernel.get_parent() if parent is None else parent
    ident = b"kernel." + kind.encode()
    sys.stdout.flush()
    kernel.session.send(kernel.iopub_socket, kind, content, parent=parent, ident=ident, **more)
def show(data, **more):
    say("display_data", {"data": data, "metadata": {}, **more})
"""
TITLE, PASTE, LINK = "\x1b]0;title\x07", "\x1b]52;c;ZXZpbA==\x07", "\x1b]8;;http://evil\x1b\\"
TERMINAL = f"{TITLE}{PASTE}{LINK}\x1b[2J\x1b[31mred\x1b[0m"
COLOURED = "\x1b[31mred\x1b[0m"

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("outputs")) as made:
        made.install("untrusted", untrusted=True)
        made.install("trusted")
        yield made


@pytest.fixture(scope="module")
def client(site):
    with site.kernel("untrusted") as (_, kc):
        yield kc


def outputs(kc, code, *, fails=False, **kwargs):
    """Run hostile code to its end; return kinds and contents of what arrives, and the reply."""
    came = []
    reply = kc.execute_interactive(
        SAY + code, output_hook=came.append, timeout=kernels.ANSWER_S, **kwargs
    )
    assert (reply["content"]["status"] == "error") == fails, reply["content"]
    for message in came:
        assert message["parent_header"]["msg_id"] == reply["parent_header"]["msg_id"]
        assert (message["metadata"], message["buffers"]) == ({}, [])
    return [(message["msg_type"], message["content"]) for message in came], reply["content"]


def shown(kc, code):
    """Run hostile code; return what is displayed, and the text on stderr."""
    came, _ = outputs(kc, code)
    said = "".join(content["text"] for kind, content in came if kind == "stream")
    return [content["data"] for kind, content in came if "data" in content], said


def test_58_what_would_run_on_the_page(client):
    hostile = [
        {"text/html": "<script>alert(1)</script><p onclick='alert(1)'>p</p>"},
        {"text/html": "<a href='javascript:alert(1)'>a</a><iframe srcdoc='<script>'></iframe>"},
        {"text/html": "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>"},
        {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"},
        {"application/javascript": "alert(1)", "text/plain": "x"},
        {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "x"},
        {"application/vnd.evil+json": {"a": 1}, "text/plain": "x"},
        {"text/markdown": "<script>alert(1)</script>", "text/plain": "<M>"},
        {"text/latex": "$\\href{javascript:alert(1)}{x}$", "text/plain": "x"},
        {"text/html": ["<b>", 7, "<script>"]},
        {"text/html": 7},
    ]
    came, told = shown(client, f"for data in {hostile}: show(data)")
    assert len(came) == len(hostile)
    for data in came:
        assert set(data) <= {"text/plain", "text/html"}
        assert not acts(data.get("text/html", ""))
    assert came[0]["text/html"] == "<p>p</p>"
    assert came[3]["text/html"].startswith('<img alt="SVG image" src="data:image/svg+xml;base64,')
    assert told.count("\n") == 1
    assert told.startswith("cellblock: reduced for safety: scripts, ")


def test_58_the_same_acts_where_the_kernel_is_trusted(site):
    with site.kernel("trusted") as (_, kc):
        came = []
        code = SAY + "show({'text/html': '<script>alert(1)</script>'})"
        kc.execute_interactive(code, output_hook=came.append, timeout=kernels.ANSWER_S)
    html = [m["content"]["data"]["text/html"] for m in came if "data" in m["content"]]
    assert html
    assert acts(html[0])


def test_59_images_that_a_browser_would_fetch(client):
    html = (
        "<img src=https://evil/><img src=//evil/><img srcset='https://evil/ 1x'>"
        "<p style='background: url(https://evil/)'>p</p><link rel=stylesheet href=//evil/>"
        "<img src='data:image/png;base64,iVBORw0KGgo='>"
    )
    (data,), told = shown(client, f"show({{'text/html': {html!r}}})")
    assert "evil" not in data["text/html"]
    assert data["text/html"].count("data:image/png") == 1
    assert "remote images" in told


def test_60_commands_to_jupyterlab_and_names_on_the_page(client):
    html = (
        "<b id=main name=body class='jp-Dialog' data-commandlinker-command=docmanager:open "
        "data-commandlinker-args={}>b</b>"
    )
    (data,), _ = shown(client, f"show({{'text/html': {html!r}}})")
    assert data["text/html"] == "<b>b</b>"


def test_61_comms_and_displays_of_other_cells(client):
    first, _ = outputs(client, "show({'text/plain': 'mine'}, transient={'display_id': 'd'})")
    ((_, mine),) = [each for each in first if each[0] == "display_data"]
    theirs = mine["transient"]["display_id"]
    came, _ = outputs(
        client,
        f"""
say("comm_open", {{"comm_id": "c", "target_name": "jupyter.widget", "data": {{}}}})
say("comm_msg", {{"comm_id": "c", "data": {{}}}}, buffers=[b"x"])
say("comm_close", {{"comm_id": "c"}})
data = {{"text/plain": "not mine"}}
for name in ("d", {theirs!r}, "new"):
    say("update_display_data", {{"data": data, "transient": {{"display_id": name}}}})
show({{"text/plain": "again"}}, transient={{"display_id": "d"}})
""",
    )
    kinds = [kind for kind, _ in came]
    assert kinds == ["status", "execute_input", "display_data", "stream", "status"]
    assert came[2][1]["transient"]["display_id"] not in ("d", theirs)
    assert "a widget" in came[3][1]["text"]


def test_61_a_comm_of_the_page_reaches_nobody(client):
    opened = client.session.send(
        client.shell_channel.socket, "comm_open", {"comm_id": "c", "target_name": "t", "data": {}}
    )
    kinds = []
    while kinds[-2:] != ["comm_close", "status"]:
        message = client.get_iopub_msg(timeout=kernels.ANSWER_S)
        if message["parent_header"].get("msg_id") == opened["header"]["msg_id"]:
            kinds.append(message["msg_type"])
    assert kinds == ["status", "comm_close", "status"]
    info = client.comm_info(reply=True, timeout=kernels.ANSWER_S)
    assert info["content"]["comms"] == {}


def test_62_payloads(client):
    code = """
for payload in (
    {"source": "set_next_input", "text": "import os", "replace": True},
    {"source": "page", "data": {"text/html": "<script>"}, "start": 0},
    {"source": "ask_exit", "keepkernel": False},
):
    kernel.shell.payload_manager.write_payload(payload)
class Evil:
    def _repr_html_(self): return "<script>alert(1)</script><i>i</i>"
evil = Evil()
"""
    _, reply = outputs(client, code, user_expressions={"e": "evil"})
    assert reply["payload"] == []
    assert reply["user_expressions"]["e"]["data"]["text/html"] == "<i>i</i>"


def test_62_what_is_executed_is_what_was_asked(client):
    came, _ = outputs(client, "say('execute_input', {'code': 'harmless', 'execution_count': 1})")
    codes = {content["code"] for kind, content in came if kind == "execute_input"}
    assert len(codes) == 1
    assert "harmless" in codes.pop().split("say(")[-1]


def test_62_outputs_for_other_cells_and_for_nobody(client):
    outputs(client, "")
    code = """
for parent in (cells[-2], {"header": {}}, {"header": {"msg_id": "unknown"}}):
    say("display_data", {"data": {"text/plain": "elsewhere"}, "metadata": {}}, parent=parent)
    say("status", {"execution_state": "idle"}, parent=parent)
"""
    queued = "print('queued')"
    later = client.session.msg("execute_request", {"code": queued, "allow_stdin": False})
    # The next cell's own parent is known beforehand to a front end, not to the kernel: tell it.
    next_one = {"header": {**later["header"], "date": ""}}
    code += f"say('stream', {{'name': 'stdout', 'text': 'too early'}}, parent={next_one})\n"
    code += "import time; time.sleep(1); "
    code += f"say('stream', {{'name': 'stdout', 'text': 'too early'}}, parent={next_one})\n"
    first = client.execute(SAY + code, allow_stdin=False)
    client.shell_channel.send(later)
    came = []
    while True:
        message = client.get_iopub_msg(timeout=kernels.ANSWER_S)
        came.append((message["parent_header"].get("msg_id"), message["msg_type"], message))
        content = message["content"]
        if came[-1][0] == later["header"]["msg_id"] and content.get("execution_state") == "idle":
            break
    for _ in range(2):
        client.get_shell_msg(timeout=kernels.ANSWER_S)
    assert {parent for parent, _, _ in came} == {first, later["header"]["msg_id"]}
    shown = [message["content"] for _, kind, message in came if kind != "execute_input"]
    assert "elsewhere" not in json.dumps(shown)
    texts = [message["content"]["text"] for _, kind, message in came if kind == "stream"]
    assert "".join(texts) == "queued\n", shown


def test_62_an_introduction_that_wants_to_be_imported(client):
    code = """
def language_info(self):
    names = "name version nbconvert_exporter pygments_lexer codemirror_mode".split()
    evil = dict.fromkeys(names, "os.system")
    return {**evil, "mimetype": "text/html;<script>", "file_extension": "/../x"}
type(kernel).language_info = property(language_info)
type(kernel).banner = "\\x1b]0;title\\x07banner"
type(kernel).help_links = [{"text": "x", "url": "javascript:alert(1)"}]
"""
    outputs(client, code)
    told = client.kernel_info(reply=True, timeout=kernels.ANSWER_S)["content"]
    assert told["language_info"] == {
        "name": "unknown",
        "version": "os.system",  # letters and dots, as versions have
        "mimetype": "text/plain",
        "file_extension": ".txt",
    }
    assert (told["banner"], told["help_links"], told["debugger"]) == ("banner", [], False)


def test_62_inspection(client):
    code = """
def do_inspect(*args, **kwargs):
    data = {"text/html": "<script>alert(1)</script><i>i</i>", "application/javascript": "alert(1)"}
    return {"status": "ok", "found": True, "data": data, "metadata": {"x": 1}, "payload": [1]}
kernel.do_inspect = do_inspect
"""
    outputs(client, code)
    told = client.inspect("x", reply=True, timeout=kernels.ANSWER_S)["content"]
    data = {"text/html": "<i>i</i>"}
    assert told == {"status": "ok", "found": True, "data": data, "metadata": {}}


def test_62_a_question_when_nobody_may_be_asked(client):
    code = """
kernel.session.send(
    kernel.stdin_socket, "input_request", {"prompt": "password?", "password": True},
    parent=kernel.get_parent(), ident=kernel._parent_ident["shell"],
)
"""
    outputs(client, code, allow_stdin=False)
    assert not client.stdin_channel.msg_ready()


def test_63_commands_to_terminals(client):
    code = f"""
hostile = {TERMINAL!r}
print(hostile)
print(hostile, file=sys.stderr)
show({{"text/plain": hostile}})
for part in ("\\x1b]52;c;", "ZXZpbA==\\x07"):
    say("stream", {{"name": "stdout", "text": part}})
kernel.do_complete = lambda *_: {{
    "status": "ok", "matches": [hostile], "cursor_start": 0, "cursor_end": 0, "metadata": {{}},
}}
class Evil(Exception): pass
Evil.__name__ = hostile
raise Evil(hostile)
"""
    came, reply = outputs(client, code, fails=True)
    kinds = {kind for kind, _ in came}
    assert {"stream", "display_data", "error"} <= kinds
    completed = client.complete("x", reply=True, timeout=kernels.ANSWER_S)["content"]
    assert completed["matches"] == ["red"]
    said = [text for kind, content in came if kind != "execute_input" for text in strings(content)]
    for text in [*said, *strings(reply)]:
        assert "\x1b]" not in text
        assert "\x1b[2J" not in text
        assert "\x07" not in text
    assert sum(COLOURED in text for text in said) >= 3


def test_64_results_are_data_here(client, tmp_path):
    canary = tmp_path / "canary"
    code = f"""
import base64, os, pickle
class Evil:
    def __reduce__(self): return (os.system, ("touch {canary}",))
show({{
    "application/x-python-pickle": base64.b64encode(pickle.dumps(Evil())).decode(),
    "text/plain": "__import__('os').system('touch {canary}')",
}})
"""
    loaded = set(sys.modules)
    (data,), _ = shown(client, code)
    assert data == {"text/plain": f"__import__('os').system('touch {canary}')"}
    assert not canary.exists()
    assert "pickle" not in {name.split(".")[0] for name in set(sys.modules) - loaded}


def test_58_over_tcp_where_only_argv_is_run(site):
    from jupyter_client.manager import start_new_kernel

    words = site.argv("untrusted", "{connection_file}")
    site._write("by-argv", {"argv": words, "env": {}, "metadata": {}})
    km, kc = start_new_kernel(
        startup_timeout=kernels.ANSWER_S, kernel_name="by-argv", cwd=str(site.folder)
    )
    try:
        assert km.transport == "tcp"
        (data,), _ = shown(kc, "show({'text/html': '<script>alert(1)</script><i>i</i>'})")
        assert data["text/html"] == "<i>i</i>"
    finally:
        kc.stop_channels()
        km.shutdown_kernel(now=True)
