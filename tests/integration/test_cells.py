"""``%%container run`` in a real ipykernel, driven as a front end drives it."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from cellblock_engine import Engine
from support import capabilities
from support.ordinary import OrdinaryUser

TINY_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


@dataclass
class Outputs:
    """What a front end would show below a cell."""

    items: list[tuple[str, object]] = field(default_factory=list)
    reply: dict = field(default_factory=dict)

    def take(self, message: dict) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            if self.items and self.items[-1][0] == content["name"]:
                content["text"] = self.items.pop()[1] + content["text"]
            self.items.append((content["name"], content["text"]))
        elif kind in ("display_data", "execute_result"):
            self.items.append(("display", content["data"]))
        elif kind == "error":
            self.items.append(("error", content["traceback"]))

    def text(self, name: str = "stdout") -> str:
        return "".join(text for kind, text in self.items if kind == name)

    @property
    def errors(self) -> list[list[str]]:
        return [lines for kind, lines in self.items if kind == "error"]


class Notebook:
    """A kernel with the magics loaded, on a store of its own or of others."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.manager: KernelManager
        self.client: BlockingKernelClient
        self.manager, self.client = start_new_kernel(
            env={**os.environ, "CELLBLOCK_HOME": str(home)}
        )
        assert self.run("%load_ext cellblock").reply["status"] == "ok"

    def run(self, code: str, outputs: Outputs | None = None) -> Outputs:
        outputs = outputs or Outputs()
        reply = self.client.execute_interactive(
            code, output_hook=outputs.take, allow_stdin=False, timeout=60
        )
        outputs.reply = reply["content"]
        return outputs

    def cell(self, text: str, flags: str = "", outputs: Outputs | None = None) -> Outputs:
        return self.run(f"%%container run {flags}\n{text}", outputs)

    def containers(self) -> int:
        with Engine.open(self.home) as engine:
            return len(engine.containers())

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


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


def test_a_png_and_html(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import base64\n"
        "class Picture:\n"
        f"    def _repr_png_(self): return base64.b64decode('{TINY_PNG}')\n"
        "    def _repr_html_(self): return '<script>alert(1)</script>'\n"
        "    def __repr__(self): return 'picture'\n"
        "Picture()"
    )
    ((_, data),) = outputs.items
    assert set(data) == {"text/plain", "image/png"}
    assert data["text/plain"] == "picture"
    assert base64.b64decode(data["image/png"]) == base64.b64decode(TINY_PNG)


def test_the_host_image_has_the_notebooks_packages(notebook: Notebook) -> None:
    outputs = notebook.cell("import numpy as np, pandas as pd\npd.DataFrame({'n': np.arange(2)})")
    assert outputs.items == [("display", {"text/plain": "   n\n0  0\n1  1"})]


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
from cellblock_engine import Engine, RunRequest
from cellblock_kernel import run_cell
with Engine.open() as engine:
    run_cell(engine, RunRequest(remove=True), "import os; print(os.getuid()); 6 * 7", print)
    print(len(engine.containers()))
"""


def test_a_cell_as_an_ordinary_user(ordinary_user: OrdinaryUser) -> None:
    done = ordinary_user.run_python(AS_ORDINARY_USER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Stream(name='stdout', text='0\\n')",
        "Result(bundle={'text/plain': '42'}, metadata={})",
        "0",
    ]
