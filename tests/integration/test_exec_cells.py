"""``%%container exec`` in a real ipykernel: cells that share an interpreter of a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cellblock_engine import ContainerNotFound, Engine
from support import capabilities
from support.notebook import Notebook, Outputs
from support.ordinary import OrdinaryUser

LOST = "variables of earlier cells are lost, files in the container stay"


class Lab:
    """A notebook, and a container ``lab`` that stays."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook = notebook

    def start(self, words: str) -> None:
        outputs = self.notebook.run(f"%container run -d --name lab {words}")
        assert outputs.reply["status"] == "ok", outputs

    def cell(
        self, text: str, flags: str = "", outputs: Outputs | None = None, answer=None
    ) -> Outputs:
        return self.notebook.run(f"%%container exec lab {flags}\n{text}", outputs, answer)

    def value(self, text: str, flags: str = "") -> str:
        outputs = self.cell(text, flags)
        assert outputs.reply["status"] == "ok", outputs
        return outputs.items[-1][1]["text/plain"]

    def error(self, text: str, flags: str = "", outputs: Outputs | None = None) -> str:
        ((line,),) = self.cell(text, flags, outputs).errors
        return line

    def interrupted(self, text: str, times: int = 1) -> str:
        """Return the error of a cell that prints ``up`` and then is interrupted."""
        outputs = Outputs()

        def watch() -> None:
            deadline = time.monotonic() + 20
            while "up" not in outputs.text() and time.monotonic() < deadline:
                time.sleep(0.01)
            for _ in range(times):
                self.notebook.manager.interrupt_kernel()
                time.sleep(0.5)

        thread = threading.Thread(target=watch)
        thread.start()
        line = self.error(text, outputs=outputs)
        thread.join()
        return line


@pytest.fixture(scope="module")
def notebook(base_home: Path) -> Iterator[Notebook]:
    notebook = Notebook(base_home)
    yield notebook
    notebook.close()


@pytest.fixture
def lab(notebook: Notebook, request: pytest.FixtureRequest) -> Iterator[Lab]:
    lab = Lab(notebook)
    lab.start(getattr(request, "param", "host"))
    yield lab
    remove(notebook.home)


def remove(home: Path) -> None:
    with Engine.open(home) as engine, suppress(ContainerNotFound):
        engine.container("lab").remove(force=True)


def processes(home: Path) -> set[str]:
    """Return the ids of the processes in the container, but for the one that looks."""
    code = "import os; print(*[p for p in os.listdir('/proc') if p.isdigit() and p != '1' and "
    code += "os.getsid(int(p)) != os.getsid(0)])"
    with Engine.open(home) as engine:
        return set(engine.container("lab").exec(["python3", "-c", code]).stdout.decode().split())


def test_cells_share_variables_and_files(lab: Lab) -> None:
    assert lab.cell("import os, sys\nx = [1]\nprint('hi')").items == [("stdout", "hi\n")]
    assert lab.value("x.append(2)\nx") == "[1, 2]"
    assert lab.value("__name__, open('/root/file', 'w').write('kept')") == "('__main__', 4)"
    assert lab.notebook.run("%container exec lab cat /root/file").text() == "kept"
    assert lab.notebook.run("'x' in globals()").items[0][1] == {"text/plain": "False"}
    assert lab.value("sys.version_info[:2]") == str(tuple(sys.version_info[:2]))


@pytest.mark.parametrize("words", ["{}", "--entrypoint python3 {}", "{} sleep infinity"])
def test_any_image_with_python_serves(notebook: Notebook, base_image: str, words: str) -> None:
    lab = Lab(notebook)
    try:
        lab.start(words.format(base_image))
        lab.cell("import sys\nx = 1")
        assert lab.value("x, sys.executable") == "(1, '/usr/bin/python3')"
    finally:
        remove(notebook.home)


def test_errors_name_the_notebooks_cells_and_take_nothing_away(lab: Lab) -> None:
    number = lab.cell("def f(x):\n    return 1 / x").reply["execution_count"]
    outputs = lab.cell("y = 5\nf(0)")
    assert outputs.errors == [["CellFailed: ZeroDivisionError: division by zero"]]
    shown = outputs.text("stderr")
    assert f'  File "<cell {number + 1}>", line 2, in <module>\n    f(0)\n' in shown
    assert f'  File "<cell {number}>", line 2, in f\n    return 1 / x\n' in shown
    assert "runner" not in shown
    assert lab.error("import sys; sys.exit(2)") == "CellFailed: SystemExit: 2"
    assert lab.value("y") == "5"


def test_variables_travel_and_results_are_data(lab: Lab) -> None:
    lab.notebook.run("import pandas as pd\ndf = pd.DataFrame({'n': [1, 5, 9]})\nlimit = 6")
    lab.cell("pass", "--in df,limit")
    outputs = lab.cell("small = df[df.n < limit]\nsmall", "--out small --result how")
    assert "<table" in outputs.items[0][1]["text/html"]
    check = "small.n.tolist(), how is _, sorted(how.variables)"
    assert lab.notebook.run(check).items[0][1]["text/plain"] == "([1, 5], True, ['small'])"


def test_displays_figures_and_untrusted_html(lab: Lab) -> None:
    pytest.importorskip("matplotlib")
    lab.cell("import matplotlib.pyplot as plt")
    ((_, shown),) = lab.cell("plt.plot([1, 2]);").items
    assert shown["image/png"].startswith("iVBOR")
    page = (
        "class Page:\n    def _repr_html_(self): return '<b>x</b><script>alert(1)</script>'\nPage()"
    )
    outputs = lab.cell(page)
    assert outputs.items[0][1]["text/html"] == "<b>x</b>"
    assert "reduced for safety: scripts" in outputs.text("stderr")
    assert "<script>" in lab.cell("Page()", "--trust-output").items[0][1]["text/html"]


@pytest.mark.attack(61)
def test_a_display_is_updated_by_a_later_cell_of_its_container(lab: Lab) -> None:
    lab.notebook.run("display('of the notebook', display_id='mine');")
    shown: list[tuple[str, str]] = []

    class Watch(Outputs):
        def take(self, message: dict) -> None:
            if "display_data" in message["msg_type"]:
                content = message["content"]
                shown.append((content["transient"]["display_id"], content["data"]["text/plain"]))

    lab.cell("handle = display('a', display_id=True)", outputs=Watch())
    lab.cell("from IPython.display import update_display\nhandle.update('b')", outputs=Watch())
    lab.cell("update_display('c', display_id='mine')", outputs=Watch())
    lab.cell("handle = display('d', display_id=True)", "--fresh", outputs=Watch())
    assert [text for _, text in shown] == ["'a'", "'b'", "'d'"]
    assert shown[0][0] == shown[1][0] != shown[2][0]


def test_input_asks_the_front_end(lab: Lab) -> None:
    outputs = lab.cell("name = input('name? ')", answer=lambda content: content["prompt"] + "me")
    assert outputs.reply["status"] == "ok", outputs
    assert lab.value("name") == "'name? me'"
    assert "StdinNotImplementedError" in lab.error("input()")


def test_magics_work_in_every_cell(lab: Lab) -> None:
    assert lab.cell("x = 'word'\n!echo {x}").text() == "word\n"
    assert lab.cell("%cd /tmp\n!pwd\ny = 1").text().endswith("/tmp\n")
    assert lab.value("import os\nos.getcwd(), x, y") == "('/tmp', 'word', 1)"


def test_an_interrupt_leaves_the_variables(lab: Lab) -> None:
    lab.cell("import time, subprocess\nx = 1")
    for work in ("time.sleep(60)", "subprocess.run(['sleep', '60'])"):
        line = lab.interrupted(f"print('up')\n{work}")
        assert line == "CellInterrupted: the cell was interrupted"
    assert lab.value("x") == "1"


@pytest.mark.attack(29)
def test_a_cell_that_ignores_its_interrupt_costs_the_variables(lab: Lab) -> None:
    lab.cell("import time, signal\nx = 1\nopen('/root/file', 'w').write('kept')")
    line = lab.interrupted(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)", times=2
    )
    assert line == (
        f"CellInterrupted: the cell was interrupted twice, and its interpreter was killed; {LOST}"
    )
    assert lab.value("'x' in globals(), open('/root/file').read()") == "(False, 'kept')"


def test_a_time_limit_is_the_cells(lab: Lab) -> None:
    lab.cell("import time\nx = 1")
    line = lab.error("time.sleep(60)", "--timeout 500ms")
    assert line == "TimedOut: timed out: the limit of 0.5 s passed; give it more with --timeout"
    assert lab.value("x") == "1"


@pytest.mark.attack(22)
@pytest.mark.parametrize("lab", ["-m 96m host"], indirect=True)
def test_out_of_memory_is_the_cells_and_the_next_one_works(lab: Lab) -> None:
    capabilities.need_memory_cgroup()
    lab.cell("x = 1\nopen('/root/file', 'w').write('kept')")
    line = lab.error("b = [bytearray(b'x') * (1 << 20) for _ in range(300)]")
    assert line.startswith("OutOfMemory: out of memory: the limit of 96 MiB was reached (peak ")
    assert line.endswith(LOST)
    assert lab.value("'x' in globals(), open('/root/file').read()") == "(False, 'kept')"
    assert lab.error("import os; os._exit(3)").startswith(
        "InterpreterLost: the interpreter in container lab ended during the cell (exit status 3)"
    )


def test_bytes_that_are_no_frames_cost_the_interpreter_alone(lab: Lab) -> None:
    lab.cell("import os, time\nx = 1")
    line = lab.error("os.write(4, b'\\xff' * 1000)\ntime.sleep(60)")
    assert line.startswith("OutputRefused: the cell's output was refused and its interpreter ended")
    assert line.endswith(LOST)
    assert lab.value("'x' in globals()") == "False"


def test_users_and_what_comes_too_late(lab: Lab) -> None:
    assert lab.value("import os\nx = 1\nos.getuid()") == "0"
    assert lab.value("import os\nos.getuid(), 'x' in globals()", "-u 1000") == "(1000, False)"
    assert lab.value("os.getuid()", "-u 1000") == "1000"
    assert "--fresh, which loses its variables" in lab.error("1", "-e A=1")
    fresh = "import os\nos.environ['A'], os.getcwd(), 'x' in globals()"
    assert lab.value(fresh, "--fresh -e A=1 -w /tmp") == "('1', '/tmp', False)"
    assert lab.value("os.environ['A']", "-e A=1") == "'1'"


def test_another_interpreter_shares_the_files_only(lab: Lab, notebook: Notebook) -> None:
    outputs = lab.cell("echo $WORD; cat; cd /root; echo kept > file", "--shell sh -e WORD=hi")
    assert outputs.items == [("stdout", "hi\n")]
    outputs = lab.cell("#!/usr/bin/env python3\nprint(open('/root/file').read())")
    assert outputs.items == [("stdout", "kept\n\n")]
    assert lab.cell("id -u", "--shell sh -u 12345").text() == "12345\n"
    assert lab.error("exit 3", "--shell 'sh -e'") == "CellFailed: ExitStatus: 3"
    assert lab.error("1", "--shell nowhere").startswith("CommandNotFound: ")
    started = time.monotonic()
    assert lab.cell("sleep 30 & echo started", "--shell sh").text() == "started\n"
    assert time.monotonic() - started < 10
    long = lab.cell("\n".join(["echo a line that is not short"] * 20_000), "--shell sh")
    assert long.text().count("\n") == 20_000


def test_a_container_that_has_ended_says_how_to_go_on(lab: Lab) -> None:
    lab.cell("x = 1")
    lab.notebook.run("%container stop -t 0 lab")
    assert "its container has ended, and variables are lost: start it again" in lab.error("x")
    line = lab.error("x")
    assert line.startswith("Conflict: container lab is not running (exited): it cannot run")
    assert "sleep infinity" in line
    lab.notebook.run("%container start lab")
    assert lab.value("'x' in globals()") == "False"
    lab.notebook.run("%container rm -f lab\n%container run -d --name lab host")
    assert lab.value("6 * 7") == "42", "another container of the name is another interpreter"


def test_a_command_that_ends_at_once_takes_its_container_along(notebook: Notebook) -> None:
    lab = Lab(notebook)
    try:
        lab.start("host true")
        notebook.run("%container wait lab")
        assert "sleep infinity" in lab.error("1")
    finally:
        remove(notebook.home)


def test_notebooks_have_interpreters_of_their_own_which_end_with_them(lab: Lab) -> None:
    lab.cell("x = 1")
    before = processes(lab.notebook.home)
    second = Lab(Notebook(lab.notebook.home))
    try:
        assert second.value("'x' in globals()") == "False"
        second.cell("import subprocess\nchild = subprocess.Popen(['sleep', '1000'])\nx = 2")
        assert len(processes(lab.notebook.home) - before) == 2
        # A child of the notebook keeps all its descriptors open.
        holder = second.notebook.run(
            "import os, time\npid = os.fork()\nif not pid: time.sleep(60)\nprint(pid)"
        )
        os.kill(second.notebook.manager.provisioner.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while processes(lab.notebook.home) != before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes(lab.notebook.home) == before
        os.kill(int(holder.text()), signal.SIGKILL)
    finally:
        second.notebook.close()
    assert lab.value("x") == "1"
    lab.notebook.run("%unload_ext cellblock\n%load_ext cellblock")
    assert len(processes(lab.notebook.home)) == len(before) - 1 == 1
    assert lab.value("'x' in globals()") == "False"


AS_ORDINARY_USER = """
from cellblock import Engine
from cellblock_engine import ExecRequest, RunRequest
from cellblock_kernel import Sessions, run_script_in

engine, sessions = Engine.open(), Sessions()
container = engine.start(RunRequest("host", interactive=True))
try:
    session = sessions.of(container, ExecRequest())
    session.run("x = 6", print)
    print(session.run("x * 7", print, wanted=["x"]).variables)
    run_script_in(container, ExecRequest(), ["sh"], "echo script", print)
finally:
    sessions.close()
    container.remove(force=True)
    engine.close()
"""


def test_cells_share_an_interpreter_as_an_ordinary_user(rootless_user: OrdinaryUser) -> None:
    done: subprocess.CompletedProcess[str] = rootless_user.run_python(AS_ORDINARY_USER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Result('42': text/plain)",
        "{'x': 6}",
        "Stream(name='stdout', text='script\\n')",
    ]
