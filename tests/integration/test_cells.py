"""``%%container run`` in a real ipykernel, driven as a front end drives it."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from cellblock_engine import Engine
from support import capabilities
from support.notebook import Notebook, Outputs
from support.ordinary import OrdinaryUser

TINY_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


@pytest.fixture(scope="module")
def notebook(base_home: Path) -> Iterator[Notebook]:
    notebook = Notebook(base_home)
    yield notebook
    notebook.close()


def test_prints_displays_and_the_result_are_in_order(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import sys\n"
        "print('one')\n"
        "display({'a': 1})\n"
        "print('two', file=sys.stderr)\n"
        "print('three')\n"
        "display('x')\n"
        "sum(range(10))"
    )
    assert outputs.items == [
        ("stdout", "one\n"),
        ("display", {"text/plain": "{'a': 1}"}),
        ("stderr", "two\n"),
        ("stdout", "three\n"),
        ("display", {"text/plain": "'x'"}),
        ("display", {"text/plain": "45"}),
    ]
    assert outputs.reply["status"] == "ok"


def test_the_cell_is_isolated_and_leaves_nothing(notebook: Notebook) -> None:
    notebook.run("secret = 'of the notebook'")
    outputs = notebook.cell(
        "import os, socket\n"
        "print(os.getpid(), 'secret' in globals(), socket.gethostname())\n"
        "os.makedirs('/usr/made-inside')\n"
    )
    pid, known, hostname = outputs.text().split()
    assert (pid, known) == ("2", "False")
    assert hostname != os.uname().nodename
    assert not Path("/usr/made-inside").exists()
    assert notebook.containers() == 0


def test_an_image_from_a_registry_runs_the_cell(notebook: Notebook, base_image: str) -> None:
    outputs = notebook.cell("import sys\nprint(sys.executable)\n6 * 7", base_image)
    assert outputs.text() == "/usr/bin/python3\n", outputs
    assert outputs.items[-1] == ("display", {"text/plain": "42"})


def test_a_traceback_reads_as_usual_and_the_error_is_one_line(notebook: Notebook) -> None:
    outputs = notebook.cell("def f(x):\n    return 1 / x\n\nprint('a')\nf(0)")
    assert outputs.reply["status"] == "error"
    assert outputs.reply["ename"] == "CellFailed"
    assert outputs.text() == "a\n"
    shown = outputs.text("stderr")
    assert '  File "<cell>", line 5, in <module>\n    f(0)\n' in shown
    assert '  File "<cell>", line 2, in f\n    return 1 / x\n' in shown
    assert shown.endswith("ZeroDivisionError: division by zero\n")
    assert "runner" not in shown
    assert outputs.errors == [["CellFailed: ZeroDivisionError: division by zero"]]
    assert notebook.run("1").reply["status"] == "ok"


def test_a_syntax_error(notebook: Notebook) -> None:
    outputs = notebook.cell("if x\n    pass")
    assert outputs.text("stderr").startswith('  File "<cell>", line 1\n    if x\n')
    assert len(outputs.errors[0]) == 1


def test_what_a_cell_showed_is_kept_as_data(notebook: Notebook) -> None:
    outputs = notebook.cell("[6 * 7]", "--result how")
    assert outputs.items == [("display", {"text/plain": "[42]"})]
    check = "n = max(Out)\nprint(_ is how is Out[n] is globals()[f'_{n}'])\nprint(_.result)"
    outputs = notebook.run(check)
    assert outputs.text() == "True\nResult('[42]': text/plain)\n", outputs
    for silent in ("'never';", "x = 1", "None", "print(1)"):
        assert notebook.cell(silent).reply["status"] == "ok"
    notebook.cell("import threading\n1/0")
    assert notebook.run("print(_ is how, max(Out) == n)").text() == "True True\n"
    notebook.cell("2")
    assert notebook.run("print(_.result.bundle, __ is how)").text().endswith("} True\n")


def test_a_cell_is_the_first_of_a_fresh_session(notebook: Notebook, base_image: str) -> None:
    text = "print(repr((_, __, ___, _i, _ii, _iii)), Out, In[1] == _i1, len(In), _oh is Out)"
    for image in ("host", base_image):
        assert notebook.cell(text, image).text() == "('', '', '', '', '', '') {} True 2 True\n"
    outputs = notebook.cell(f"%config\n{text}\nget_ipython().user_ns is globals()")
    assert outputs.text().endswith("('', '', '', '', '', '') {} True 2 True\n"), outputs
    assert outputs.items[-1] == ("display", {"text/plain": "True"})
    assert notebook.cell("_ = 5\nIn = 7\n(_, In)").items[-1][1] == {"text/plain": "(5, 7)"}


def test_top_level_await(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import asyncio\n"
        "async def f(x):\n    await asyncio.sleep(0.01)\n    return x\n"
        "print(await f('a'))\n"
        "async with asyncio.Lock():\n    pass\n"
        "task = asyncio.create_task(f('b'))\n"
        "left = asyncio.create_task(asyncio.sleep(60))\n"
        "await task"
    )
    assert outputs.items == [("stdout", "a\n"), ("display", {"text/plain": "'b'"})]
    outputs = notebook.cell("import asyncio\nawait asyncio.sleep(0)\nasync def g(): 1/0\nawait g()")
    assert outputs.text("stderr").startswith(
        'Traceback (most recent call last):\n  File "<cell>", line 4, in <module>\n    await g()\n'
    )
    assert outputs.reply["ename"] == "CellFailed"
    assert notebook.cell("import asyncio\nasyncio.run(asyncio.sleep(0, 5))").items == [
        ("display", {"text/plain": "5"})
    ]


def test_an_interrupt_cancels_what_is_awaited(notebook: Notebook) -> None:
    outputs = Outputs()
    thread = interrupt_after(notebook, outputs, "up")
    notebook.cell(
        "import asyncio\nprint('up')\ntry:\n    await asyncio.sleep(60)\n"
        "finally:\n    print('cleaned up')\n",
        outputs=outputs,
    )
    thread.join()
    assert outputs.text() == "up\ncleaned up\n"
    assert outputs.errors == [["CellInterrupted: the cell was interrupted"]]


def test_input_and_getpass_ask_the_front_end(notebook: Notebook) -> None:
    asked = []

    def answer(content: dict) -> str:
        asked.append((content["prompt"], content["password"]))
        return f"answer {len(asked)}"

    outputs = notebook.run(
        "%%container run\nimport getpass\nprint('before')\n"
        "one, two = input('name? '), getpass.getpass('secret? ')\nprint(one, two, input())",
        answer=answer,
    )
    assert outputs.reply["status"] == "ok", outputs
    assert asked == [("name? ", False), ("secret? ", True), ("", False)]
    assert outputs.text() == "before\nanswer 1 answer 2 answer 3\n"


def test_input_without_a_front_end_is_an_error(notebook: Notebook) -> None:
    outputs = notebook.cell("input('name? ')")
    ((line,),) = outputs.errors
    assert line.startswith("CellFailed: StdinNotImplementedError: input was asked for, but")
    assert notebook.cell(
        "try:\n    input()\nexcept NotImplementedError:\n    print('no')"
    ).items == [("stdout", "no\n")]


def test_a_cell_that_forges_questions_and_reads_no_answer_is_ended(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import os, json, struct\n"
        "head = json.dumps({'kind': 'input', 'id': 1}).encode()\n"
        "while True: os.write(4, struct.pack('!II', len(head), 0) + head)"
    )
    ((line,),) = outputs.errors
    assert line.startswith("OutputRefused: ")
    assert "does not read the answers" in line


TIMED = """
import time
started = time.monotonic()
try:
    get_ipython().run_cell_magic("container", "run --timeout 2", "print(input('name? '))")
except BaseException as error:
    print(type(error).__name__, time.monotonic() - started)
"""


def test_a_timeout_ends_a_question_at_once(notebook: Notebook) -> None:
    def answer(content: dict) -> str:
        time.sleep(8)
        return "too late"

    name, duration_s = notebook.run(TIMED, answer=answer).text().split()
    assert name == "TimedOut"
    assert 2 <= float(duration_s) < 4, "reported when it happened, not when the answer came"
    # What was typed is nobody's, and the next question gets its own answer.
    outputs = notebook.run("%%container run\nprint(input())", answer=lambda content: "in time")
    assert outputs.text() == "in time\n"
    assert notebook.containers() == 0


def test_an_interrupt_ends_a_question(notebook: Notebook) -> None:
    def answer(content: dict) -> str:
        notebook.manager.interrupt_kernel()
        time.sleep(1)
        return "too late"

    outputs = notebook.run("%%container run\nprint(input('name? '))", answer=answer)
    assert outputs.reply["ename"] == "CellInterrupted"
    assert outputs.text() == ""
    assert notebook.containers() == 0


def test_magics_and_commands_where_the_image_has_ipython(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "x = 'word'\nprint('a')\n!echo {x}\nfiles = !echo one; echo two\nprint(files[1])\n"
        "%timeit -n1 -r1 pass\n%who_ls str"
    )
    assert outputs.reply["status"] == "ok", outputs
    assert outputs.text().startswith("a\nword\ntwo\n")
    assert "1 loop each" in outputs.text()
    assert outputs.items[-1] == ("display", {"text/plain": "['x']"})
    outputs = notebook.cell("%%time\ny = 2\nprint(y)")
    assert outputs.text().startswith("2\nCPU times: ")
    outputs = notebook.cell("!exit 3\nprint(_exit_code)\n%nowhere")
    assert outputs.text() == "3\n"
    ((line,),) = outputs.errors
    assert line.startswith("CellFailed: UsageError: Line magic function `%nowhere` not found")


def test_a_plain_syntax_error_beside_percent_signs_stays_one(notebook: Notebook) -> None:
    outputs = notebook.cell("x = '''\n%d\n''' % 1\nif x\n    pass")
    assert outputs.text("stderr").startswith('  File "<cell>", line 4\n    if x\n')


def test_magics_where_the_image_has_no_ipython_are_one_line(
    notebook: Notebook, base_image: str
) -> None:
    outputs = notebook.cell("print('a')\n!ls", base_image)
    assert outputs.items[0] == (
        "stderr",
        "UsageError: line 2 needs IPython, which this image does not have: %magics and !cmd are "
        "IPython's; in plain Python, use subprocess.run\n",
    )
    assert outputs.reply["ename"] == "CellFailed"
    outputs = notebook.cell("x = 5\\\n% 2\nif x\n  pass", base_image)
    assert "SyntaxError" in outputs.text("stderr")


def test_another_interpreter_runs_the_text(notebook: Notebook, base_image: str) -> None:
    script = "for n in 1 2; do echo $WORD $n; done\necho trouble >&2\ncat"
    outputs = notebook.cell(script, "--shell sh -e WORD=hi --result how")
    assert (outputs.text(), outputs.text("stderr")) == ("hi 1\nhi 2\n", "trouble\n")
    assert notebook.run("how.result, how.duration_s > 0").items[0][1]["text/plain"] == (
        "(None, True)"
    )
    outputs = notebook.cell("#!/bin/sh -e\nfalse\necho never", base_image)
    assert outputs.errors == [["CellFailed: ExitStatus: 1"]]
    outputs = notebook.cell("#!/usr/bin/env python3\nimport sys\nprint(sys.argv)\n6 * 7")
    assert outputs.items == [("stdout", "['/dev/.cellblock/cell']\n")]
    assert notebook.cell(script, "--shell sh -u 12345").reply["status"] == "ok"
    assert notebook.containers() == 0


def test_an_interpreter_that_cannot_run_the_text_is_one_line(notebook: Notebook) -> None:
    ((line,),) = notebook.cell("1", "--shell 'nowhere -x'").errors
    assert line.startswith("CommandNotFound: ")
    assert "nowhere" in line
    ((line,),) = notebook.cell("1", "--shell sh --out x").errors
    assert line.startswith("InvalidInput: --in and --out carry variables of Python, not of sh")


def test_an_interrupt_ends_a_script(notebook: Notebook) -> None:
    outputs = Outputs()
    thread = interrupt_after(notebook, outputs, "up")
    notebook.cell("echo up\nsleep 60", "--shell sh", outputs=outputs)
    thread.join()
    assert outputs.errors == [["CellInterrupted: the cell was interrupted"]]
    assert notebook.containers() == 0


@pytest.mark.attack(61)
def test_displays_are_updated_in_this_cell_only(notebook: Notebook) -> None:
    notebook.run("display('of the notebook', display_id='mine');")
    ids: list[tuple[str, str]] = []

    class Watch(Outputs):
        def take(self, message: dict) -> None:
            if "display_data" in message["msg_type"]:
                content = message["content"]
                ids.append((message["msg_type"], content["transient"].get("display_id")))
                self.items.append((message["msg_type"], content["data"]["text/plain"]))

    outputs = notebook.cell(
        "from IPython.display import DisplayHandle, update_display\n"
        "handle = display('a', display_id=True)\nhandle.update('b')\n"
        "display('c', display_id='mine')\nupdate_display('d', display_id='mine')\n"
        "update_display('lost', display_id='never shown')",
        outputs=Watch(),
    )
    assert outputs.items == [
        ("display_data", "'a'"),
        ("update_display_data", "'b'"),
        ("display_data", "'c'"),
        ("update_display_data", "'d'"),
    ]
    assert ids[0][1] == ids[1][1] != ids[2][1] == ids[3][1]
    assert ids[3][1] != "mine"


def test_clear_output_clears_in_order(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "from IPython.display import clear_output\n"
        "print('a')\nclear_output(wait=True)\nprint('b')\nclear_output()\nprint('c')"
    )
    assert outputs.items == [
        ("stdout", "a\n"),
        ("clear", True),
        ("stdout", "b\n"),
        ("clear", False),
        ("stdout", "c\n"),
    ]


def test_a_progress_bars_carriage_returns_arrive(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import sys, time\n"
        "for n in range(3):\n"
        "    print(f'\\r{n}/2', end='', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.1)\n"
        "print(file=sys.stderr)"
    )
    assert outputs.items == [("stderr", "\r0/2\r1/2\r2/2\n")]


def test_attacks_58_to_60_html_is_sanitised_and_the_loss_is_named_once(notebook: Notebook) -> None:
    source = (
        "class Page:\n"
        "    def _repr_html_(self):\n"
        "        return '<b id=x data-commandlinker-command=y onclick=z()>bold</b>"
        "<script>alert(1)</script><img src=https://evil.example/>'\n"
        "    def __repr__(self): return 'page'\n"
        "display(Page())\n"
        "Page()"
    )
    outputs = notebook.cell(source)
    assert outputs.items == [
        ("display", {"text/plain": "page", "text/html": "<b>bold</b><img>"}),
        ("display", {"text/plain": "page", "text/html": "<b>bold</b><img>"}),
        (
            "stderr",
            "cellblock: reduced for safety: scripts, remote images; "
            "--trust-output shows all that the cell sends\n",
        ),
    ]
    trusted = notebook.cell(source, "--trust-output")
    assert "<script>alert(1)</script>" in trusted.items[0][1]["text/html"]
    assert len(trusted.items) == 2


def test_plotly_markdown_and_latex_are_named(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "from IPython.display import Markdown, Latex\n"
        "display({'application/vnd.plotly.v1+json': {}, 'text/plain': 'figure'}, raw=True)\n"
        "display(Markdown('*m*'), Latex('$x$'))"
    )
    assert outputs.items == [
        ("display", {"text/plain": "figure"}),
        ("display", {"text/plain": "*m*"}),
        ("display", {"text/plain": "$x$"}),
        (
            "stderr",
            "cellblock: reduced for safety: Plotly, Markdown (shown as text), "
            "LaTeX (shown as text); --trust-output shows all that the cell sends\n",
        ),
    ]


def test_a_png_and_html(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import base64\n"
        "class Picture:\n"
        f"    def _repr_png_(self): return base64.b64decode('{TINY_PNG}')\n"
        "    def _repr_html_(self): return '<script>alert(1)</script>'\n"
        "    def __repr__(self): return 'picture'\n"
        "Picture()"
    )
    (_, data), (name, _) = outputs.items
    assert name == "stderr"
    assert set(data) == {"text/plain", "image/png"}
    assert data["text/plain"] == "picture"
    assert base64.b64decode(data["image/png"]) == base64.b64decode(TINY_PNG)


def test_the_host_image_has_the_notebooks_packages(notebook: Notebook) -> None:
    outputs = notebook.cell("import numpy as np, pandas as pd\npd.DataFrame({'n': np.arange(2)})")
    ((_, data),) = outputs.items
    assert data["text/plain"] == "   n\n0  0\n1  1"
    assert '<table border="1" class="dataframe">' in data["text/html"]


def test_output_streams_while_the_cell_runs(notebook: Notebook) -> None:
    times: list[float] = []

    class Watch(Outputs):
        def take(self, message: dict) -> None:
            if message["msg_type"] == "stream":
                times.append(time.monotonic())

    notebook.cell("import time\nfor n in range(3):\n    print(n); time.sleep(0.7)", outputs=Watch())
    assert len(times) == 3
    assert times[-1] - times[0] > 1


def interrupt_after(notebook: Notebook, outputs: Outputs, text: str) -> threading.Thread:
    def wait_and_interrupt() -> None:
        deadline = time.monotonic() + 30
        while text not in outputs.text() and time.monotonic() < deadline:
            time.sleep(0.02)
        notebook.manager.interrupt_kernel()

    thread = threading.Thread(target=wait_and_interrupt)
    thread.start()
    return thread


def test_an_interrupt_stops_the_cell_cleanly(notebook: Notebook) -> None:
    outputs = Outputs()
    thread = interrupt_after(notebook, outputs, "up")
    started = time.monotonic()
    notebook.cell(
        "import time\nprint('up')\ntry:\n    time.sleep(60)\nfinally:\n    print('cleaned up')\n",
        outputs=outputs,
    )
    thread.join()
    assert time.monotonic() - started < 20
    assert outputs.text() == "up\ncleaned up\n"
    assert outputs.text("stderr").endswith("KeyboardInterrupt\n")
    assert outputs.errors == [["CellInterrupted: the cell was interrupted"]]
    assert notebook.containers() == 0
    assert notebook.run("1").reply["status"] == "ok"


@pytest.mark.attack(29)
def test_a_cell_that_ignores_its_interrupt_is_killed(notebook: Notebook) -> None:
    outputs = Outputs()
    thread = interrupt_after(notebook, outputs, "up")
    notebook.cell(
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('up')\n"
        "time.sleep(60)\n",
        outputs=outputs,
    )
    thread.join()
    assert len(outputs.errors) == 1
    assert "did not stop within 2 s" in outputs.errors[0][0]
    assert notebook.containers() == 0


def test_out_of_memory_is_one_typed_line_and_the_notebook_lives(notebook: Notebook) -> None:
    capabilities.need_memory_cgroup()
    outputs = notebook.cell(
        "print('before')\nx = [bytearray(b'x') * (1 << 20) for _ in range(300)]", "-m 64m"
    )
    assert outputs.text() == "before\n"
    assert outputs.reply["ename"] == "OutOfMemory"
    ((line,),) = outputs.errors
    assert line.startswith("OutOfMemory: out of memory: the limit of 64 MiB was reached (peak ")
    assert notebook.run("1 + 1").items == [("display", {"text/plain": "2"})]
    assert notebook.containers() == 0


def test_a_timeout_is_one_typed_line(notebook: Notebook) -> None:
    outputs = notebook.cell("print('a')\nimport time; time.sleep(60)", "--timeout 1")
    assert outputs.reply["ename"] == "TimedOut"
    assert len(outputs.errors[0]) == 1
    assert outputs.text() == "a\n"


def test_a_hundred_thousand_prints_are_whole(notebook: Notebook) -> None:
    outputs = notebook.cell("for n in range(100_000): print(n)")
    assert outputs.text() == "".join(f"{n}\n" for n in range(100_000))


def test_output_of_children_is_in_order(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import os, subprocess\n"
        "for n in range(10):\n"
        "    print('before', n)\n"
        "    subprocess.run(['echo', 'child', str(n)])\n"
        "    print('between', n)\n"
        "    os.system(f'echo other child {n}')\n"
        "subprocess.run(['sh', '-c', 'echo trouble >&2'])"
    )
    assert outputs.text() == "".join(
        f"before {n}\nchild {n}\nbetween {n}\nother child {n}\n" for n in range(10)
    )
    assert outputs.text("stderr") == "trouble\n"


def test_as_a_user_without_a_name(notebook: Notebook) -> None:
    outputs = notebook.cell("import os\nprint(os.getuid())", "-u 12345")
    assert outputs.text() == "12345\n", outputs


def test_nbclient_stops_at_a_cell_that_failed(engine: Engine, tmp_path: Path) -> None:
    document = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("%load_ext cellblock"),
            nbformat.v4.new_code_cell("%%container run\nprint('in')\nraise ValueError('no')"),
            nbformat.v4.new_code_cell("never = 1"),
        ]
    )
    client = NotebookClient(document, timeout=60)
    with pytest.raises(CellExecutionError, match="CellFailed: ValueError: no"):
        client.execute(env={**os.environ, "CELLBLOCK_HOME": str(tmp_path / "store")})
    assert document.cells[2].execution_count is None
    texts = [output.get("text") for output in document.cells[1].outputs]
    assert "in\n" in texts


AS_ORDINARY_USER = """
from cellblock_engine import Engine, Removal, RunRequest
from cellblock_kernel import run_cell, run_script
with Engine.open() as engine:
    request = RunRequest(removal=Removal.AT_END)
    run_cell(engine, request, "import os; print(os.getuid()); 6 * 7", print)
    source = "y = x * 2"
    print(run_cell(engine, request, source, print, given={"x": [1]}, wanted=["y"]).variables)
    run_script(engine, request, ["sh"], "echo script", print)
    print(len(engine.containers()))
"""


def test_a_cell_as_an_ordinary_user(rootless_user: OrdinaryUser) -> None:
    done = rootless_user.run_python(AS_ORDINARY_USER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Stream(name='stdout', text='0\\n')",
        "Result('42': text/plain)",
        "{'y': [1, 1]}",
        "Stream(name='stdout', text='script\\n')",
        "0",
    ]


def test_a_cell_that_fills_its_storage_says_so(notebook: Notebook) -> None:
    capabilities.need_attributes_in_memory()
    outputs = notebook.cell("open('/big', 'wb').write(bytes(8 << 20))", "--rm --storage-limit 4m")
    assert outputs.reply["ename"] == "DiskFull"
