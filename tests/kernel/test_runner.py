"""The guest runner as a plain process, under every Python from 3.8 on that this machine has."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cellblock_kernel import Display, Error, Event, InputRequest, Result, Stream
from cellblock_kernel.cells.cell import RUNNER
from cellblock_kernel.cells.frames import FrameDecoder, encode_cell

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Outcome:
    status: int
    events: list[Event]
    stdout: str
    stderr: str
    hello: object

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, Stream) and e.name == "stdout")

    @property
    def errors(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, Stream) and e.name == "stderr")

    def only(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


class Runner:
    """A started runner; ``events`` grow while it runs."""

    def __init__(self, python: str, source: str, cwd: Path | None = None) -> None:
        cell_in, self._cell = os.pipe()
        self._frames, frames_in = os.pipe()
        code = (
            "import os, sys\n"
            "a, b = map(int, sys.argv[1:3])\n"
            "a, b = os.dup(a), os.dup(b)\n"
            "a = os.dup(a) if a == 4 else a\n"
            "os.dup2(a, 63); os.dup2(b, 64); os.dup2(63, 3); os.dup2(64, 4)\n"
            "os.dup2(1, 5); os.dup2(2, 6); os.closerange(7, 256)\n"
            "os.execv(sys.argv[3], sys.argv[3:])\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-ISc", code, str(cell_in), str(frames_in), python, "-u", RUNNER],
            pass_fds=(cell_in, frames_in),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
        )
        os.close(cell_in)
        os.close(frames_in)
        self.events: list[Event] = []
        self.decoder = FrameDecoder(64 << 20)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        with open(self._cell, "wb") as file:
            file.write(encode_cell(source))

    def _read(self) -> None:
        while data := os.read(self._frames, 1 << 18):
            self.events.extend(self.decoder.feed(data))
        os.close(self._frames)

    def wait_for_text(self, text: str, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if text in "".join(e.text for e in list(self.events) if isinstance(e, Stream)):
                return
            time.sleep(0.005)
        raise AssertionError(f"{text!r} did not come: {self.events}")

    def finish(self) -> Outcome:
        stdout, stderr = self.process.communicate(timeout=60)
        self._reader.join(10)
        return Outcome(
            self.process.returncode,
            self.events,
            stdout.decode(),
            stderr.decode(),
            self.decoder.hello,
        )


def run(source: str, python: str = sys.executable, cwd: Path | None = None) -> Outcome:
    return Runner(python, source, cwd).finish()


def test_prints_displays_and_result_keep_their_order(python):
    outcome = run(
        "import sys\n"
        "print('one')\n"
        "display(1)\n"
        "print('two', file=sys.stderr)\n"
        "print('three')\n"
        "display(2, 3)\n"
        "print('four')\n"
        "{'a': 1}\n",
        python,
    )
    assert outcome.status == 0
    assert outcome.events == [
        Stream("stdout", "one\n"),
        Display({"text/plain": "1"}),
        Stream("stderr", "two\n"),
        Stream("stdout", "three\n"),
        Display({"text/plain": "2"}),
        Display({"text/plain": "3"}),
        Stream("stdout", "four\n"),
        Result({"text/plain": "{'a': 1}"}),
    ]
    assert (outcome.stdout, outcome.stderr) == ("", "")


def test_hello_names_the_version(python):
    outcome = run("import platform; print(platform.python_version())", python)
    assert outcome.hello.python == outcome.text.strip()


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("1 + 1", "2"),
        ("1 + 1;", None),
        ("1 + 1 ; # quiet", None),
        ("(1 +\n 1);", None),
        ("1 + 1 # ; loud", "2"),
        ("'ä;'", "'ä;'"),
        ("x = 1", None),
        ("None", None),
        ("", None),
        ("# nothing", None),
        ("x = 4\nx", "4"),
        ("'x\x0cy'\n5", "5"),
        ("if True:\n    7", None),
        (
            "from __future__ import annotations\ndef f(a: no): pass\nf.__annotations__",
            "{'a': 'no'}",
        ),
        ("from __future__ import annotations\n(lambda: 3)()", "3"),
        ("__name__", "'__main__'"),
        ("import sys\nsys.argv, sys.path[0]", "([''], '')"),
        ("import sys\nsys.modules['__main__'].__dict__ is globals()", "True"),
        ("'__file__' in globals()", "False"),
        ("class A:\n  pass\nimport pickle\ntype(pickle.loads(pickle.dumps(A()))) is A", "True"),
    ],
)
def test_the_last_expression_is_the_result(source, result):
    outcome = run(source)
    assert outcome.only(Error) == []
    shown = [event.bundle["text/plain"] for event in outcome.only(Result)]
    assert shown == ([] if result is None else [result])
    assert outcome.status == 0


def test_future_imports_of_the_runner_do_not_leak(python):
    outcome = run("def f(a: 1 + 1): pass\nf.__annotations__['a']", python)
    assert outcome.only(Result)[0].bundle["text/plain"] == "2"


def test_traceback_reads_as_usual(python):
    outcome = run("def f(x):\n    return 1 / x\n\nprint('a')\nf(0)\n", python)
    assert outcome.status == 1
    error = outcome.events[-1]
    assert (error.ename, error.evalue) == ("ZeroDivisionError", "division by zero")
    lines = error.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line for line in lines if line.startswith("  File")] == [
        '  File "<cell>", line 5, in <module>',
        '  File "<cell>", line 2, in f',
    ]
    assert "    return 1 / x" in lines
    assert "    f(0)" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "runner" not in error.traceback


def test_carets_point_at_the_place():
    lines = run("1/0").only(Error)[0].traceback.splitlines()
    assert lines[2:4] == ["    1/0", "    ~^~"]


def test_traceback_of_a_chain_has_no_frames_of_the_runner(python):
    outcome = run(
        "class Bad:\n"
        "    def __repr__(self):\n"
        "        raise ValueError('bad repr')\n"
        "try:\n"
        "    display(Bad())\n"
        "except ValueError as error:\n"
        "    raise KeyError('k') from error\n",
        python,
    )
    error = outcome.events[-1]
    assert error.ename == "KeyError"
    assert "The above exception was the direct cause" in error.traceback
    assert "ValueError: bad repr" in error.traceback
    assert RUNNER.name not in error.traceback


def test_syntax_error(python):
    outcome = run("x = 1\nif x\n    pass\n", python)
    error = outcome.events[-1]
    assert outcome.status == 1
    assert error.ename == "SyntaxError"
    assert error.traceback.startswith('  File "<cell>", line 2\n    if x\n')
    assert RUNNER.name not in error.traceback


@pytest.mark.parametrize("source", ["x = '\0'", "x = '\ud800'", "(" * 5000 + ")" * 5000])
def test_text_that_does_not_compile_is_an_error_of_the_cell(source):
    outcome = run(source)
    if outcome.status:
        assert outcome.status == 1
        assert len(outcome.only(Error)) == 1
        assert RUNNER.name not in outcome.only(Error)[0].traceback
    assert outcome.stderr == ""


def test_recursion_error_is_short(python):
    outcome = run("def f():\n    f()\nf()", python)
    error = outcome.events[-1]
    assert error.ename == "RecursionError"
    assert "more times" in error.traceback
    assert len(error.traceback) < 2000


def test_an_exception_that_cannot_be_printed(python):
    outcome = run(
        "class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E", python
    )
    assert outcome.status == 1
    assert outcome.only(Error)[0].ename == "E"


@pytest.mark.parametrize(
    ("source", "status", "errors"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('bye')", 1, "bye\n"),
        ("exit(0)", 0, ""),
        ("import os; os._exit(7)", 7, ""),
    ],
)
def test_exit_status(source, status, errors):
    outcome = run(source)
    assert (outcome.status, outcome.errors, outcome.only(Error)) == (status, errors, [])


def test_lines_survive_a_crash_right_behind_them():
    outcome = run(
        "import os, signal\nfor n in range(20): print(n)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert outcome.status == -signal.SIGKILL
    assert outcome.text.split() == [str(n) for n in range(20)]


def test_a_fault_is_reported():
    outcome = run("import ctypes; print('before'); ctypes.string_at(0)")
    assert outcome.status == -signal.SIGSEGV
    assert outcome.text == "before\n"
    assert "Segmentation fault" in outcome.stderr


def test_interrupt_gives_a_traceback(python):
    runner = Runner(python, "import time\nprint('up')\ntime.sleep(60)\n")
    runner.wait_for_text("up\n")
    time.sleep(0.3)  # from the print to the sleep
    runner.process.send_signal(signal.SIGINT)
    outcome = runner.finish()
    assert outcome.status == 130
    error = outcome.events[-1]
    assert error.ename == "KeyboardInterrupt"
    assert '  File "<cell>", line 3, in <module>' in error.traceback
    assert outcome.stderr == ""


def test_interrupts_in_a_flood_keep_the_frames_whole():
    # Late signals come on a busy machine: out of the flood they raise nothing.
    source = (
        "import os, signal, sys\n"
        "flooding = False\n"
        "def again(*_):\n"
        "    if flooding:\n"
        "        raise TimeoutError('alarm')\n"
        "signal.signal(signal.SIGALRM, again)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)\n"
        "count = caught = 0\n"
        "while caught < 100:\n"
        "    try:\n"
        "        try:\n"
        "            flooding = True\n"
        "            while True:\n"
        "                count += 1\n"
        "                print('%d %s' % (count, 'x' * 100), flush=True)\n"
        "                display(count)\n"
        "        finally:\n"
        "            flooding = False\n"
        "    except TimeoutError:\n"
        "        caught += 1\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print('end', caught)\n"
    )
    outcome = run(source)
    assert outcome.text.endswith("end 100\n"), outcome
    assert outcome.only(Error) == []
    numbers = [int(event.bundle["text/plain"]) for event in outcome.only(Display)]
    assert numbers == sorted(set(numbers)), "a frame came twice or out of order"


def test_a_handler_that_prints_inside_a_print():
    source = (
        "import signal\n"
        "signal.signal(signal.SIGALRM, lambda *_: print('tick', flush=True))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "for n in range(3000):\n"
        "    print(n, 'y' * 500, flush=True)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    outcome = run(source)
    assert outcome.status == 0
    assert "tick" in outcome.text
    assert outcome.text.count("y") == 3000 * 500


@pytest.mark.attack(26)
def test_a_million_prints_are_quick_and_whole():
    started = time.monotonic()
    outcome = run("for n in range(1_000_000): print(n)")
    assert time.monotonic() - started < 30
    assert outcome.text == "".join(f"{n}\n" for n in range(1_000_000))
    assert len(outcome.events) < 2000


def test_text_without_a_newline_comes_soon():
    runner = Runner(sys.executable, "print('dots', end='')\nimport time; time.sleep(5)")
    started = time.monotonic()
    runner.wait_for_text("dots")
    assert time.monotonic() - started < 4
    runner.process.send_signal(signal.SIGINT)
    runner.finish()


def test_one_enormous_print_is_split():
    outcome = run("print('z' * 5_000_000)")
    assert outcome.text == "z" * 5_000_000 + "\n"
    assert max(len(event.text) for event in outcome.only(Stream)) <= 1 << 20


def test_threads_print_whole_lines():
    outcome = run(
        "import threading\n"
        "def work(n):\n"
        "    for i in range(500): print(f'{n}:{i}\\n', end='')\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n"
        "[t.start() for t in threads]\n"
        "[t.join() for t in threads];\n"
    )
    lines = outcome.text.splitlines()
    assert len(lines) == 4000
    assert all(re.fullmatch(r"\d:\d+", line) for line in lines)


def test_threads_outlive_the_cell_and_atexit_prints_last(python):
    outcome = run(
        "import atexit, threading, time\n"
        "atexit.register(print, 'atexit')\n"
        "def late():\n"
        "    time.sleep(0.2); print('late')\n"
        "threading.Thread(target=late).start()\n"
        "print('end')\n",
        python,
    )
    assert outcome.text.split() == ["end", "late", "atexit"]


def test_forked_children_write_to_the_raw_descriptors(python):
    outcome = run(
        "import multiprocessing, os\n"
        "def work(n):\n"
        "    print('child', n)\n"
        "    display(n)\n"
        "    return n * n\n"
        "print('before')\n"
        "with multiprocessing.get_context('fork').Pool(4) as pool:\n"
        "    squares = pool.map(work, range(40), 1)\n"
        "print('after')\n"
        "sum(squares)\n",
        python,
    )
    assert outcome.status == 0, outcome
    assert outcome.text == "before\nafter\n"
    assert outcome.only(Result)[0].bundle["text/plain"] == str(sum(n * n for n in range(40)))
    lines = outcome.stdout.split("\n")
    assert sorted(lines) == sorted(
        [""] + [f"child {n}" for n in range(40)] + [str(n) for n in range(40)]
    )
    assert outcome.stderr == ""


def test_a_plain_fork_that_falls_through_the_cell(python):
    outcome = run(
        "import os, warnings\n"
        "warnings.simplefilter('always')\n"
        "print('one')\n"
        "pid = os.fork()\n"
        "if pid: os.waitpid(pid, 0)\n"
        "print('parent' if pid else 'child')\n"
        "pid > 0\n",
        python,
    )
    assert outcome.text == "one\nparent\n"
    assert outcome.only(Result)[0].bundle["text/plain"] == "True"
    assert outcome.stdout == "child\nFalse\n"
    assert (outcome.errors, outcome.stderr) == ("", "")


def test_subprocesses_inherit_the_raw_descriptors_only():
    outcome = run(
        "import subprocess, sys\n"
        "subprocess.run(['sh', '-c', 'echo raw; echo error >&2; ls /proc/self/fd'])\n"
        "subprocess.run(['echo', 'to stdout'], stdout=sys.stdout)\n"
    )
    assert outcome.stdout.split("\n")[0] == "raw"
    assert set(outcome.stdout.split()) <= {"raw", "0", "1", "2", "3", "to", "stdout"}
    assert "to stdout" in outcome.stdout
    assert outcome.stderr == "error\n"


def test_text_leaves_before_a_subprocess_starts():
    outcome = run(
        "import os, subprocess\n"
        "for n in range(1000): print('x')\n"
        "print('last', end='')\n"
        "os.execvp('true', ['true'])\n"
    )
    assert outcome.text == "x\n" * 1000 + "last"


def test_input_finds_an_empty_stdin(python):
    outcome = run("input('name? ')", python)
    assert outcome.only(Error)[0].ename == "EOFError"
    assert outcome.only(InputRequest) == [InputRequest(1, "name? ", secret=False)]


def test_stdout_is_a_text_file():
    outcome = run(
        "import sys, io\n"
        "sys.stdout.buffer.write('grü'.encode()[:3]); sys.stdout.buffer.write('grü'.encode()[3:])\n"
        "sys.stdout.reconfigure(line_buffering=True)\n"
        "sys.stdout.writelines(['a', 'b\\n'])\n"
        "print('\\ud800')\n"
        "try: sys.stdout.write(1)\n"
        "except TypeError as error: print(error)\n"
        "sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.fileno(), sys.stderr.name\n"
    )
    assert outcome.text == "grüab\n\\ud800\nwrite() argument must be str, not int\n"
    assert outcome.only(Result)[0].bundle["text/plain"] == "(False, 'utf-8', 1, '<stderr>')"


def test_closing_every_descriptor_leaves_the_rest_to_the_raw_ones():
    outcome = run("import os\nprint('framed')\nos.closerange(3, 50)\nprint()\nprint('raw')")
    assert outcome.text == "framed\n"
    assert outcome.stdout.strip() == "raw"
    assert outcome.status == 0


def test_representations(python):
    outcome = run(
        "class Rich:\n"
        "    def _repr_html_(self): return '<b>x</b>'\n"
        "    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n', {'width': 3}\n"
        "    def _repr_svg_(self): return None\n"
        "    def _repr_json_(self): return {'a': [1]}\n"
        "    def _repr_latex_(self): raise ValueError('no latex')\n"
        "    def __repr__(self): return 'rich'\n"
        "class Bundle:\n"
        "    def _repr_mimebundle_(self, include=None, exclude=None):\n"
        "        return {'text/plain': 'p', 'application/x': {'k': 1}}, {'m': 1}\n"
        "class Custom:\n"
        "    def _ipython_display_(self): print('custom')\n"
        "class Anything:\n"
        "    def __getattr__(self, name): return lambda *a, **k: 'trap'\n"
        "    def __repr__(self): return 'anything'\n"
        "display(Rich()); display(Rich); display(Bundle())\n"
        "display(Custom()); display(Anything())\n"
        "display({'text/plain': 'raw'}, raw=True)\n"
        "display(Rich(), include=['text/html'])\n"
        "Rich()\n",
        python,
    )
    rich, rich_class, bundle, anything, raw, included = outcome.only(Display)
    assert rich.bundle == {
        "text/plain": "rich",
        "text/html": "<b>x</b>",
        "image/png": PNG,
        "application/json": '{"a": [1]}',
    }
    assert rich.metadata == {"image/png": {"width": 3}}
    assert list(rich_class.bundle) == ["text/plain"]
    assert bundle.bundle == {"text/plain": "p", "application/x": '{"k": 1}'}
    assert bundle.metadata == {"m": 1}
    assert outcome.text == "custom\n"
    assert anything.bundle == {"text/plain": "anything"}
    assert raw.bundle == {"text/plain": "raw"}
    assert included.bundle == {"text/html": "<b>x</b>"}
    assert outcome.only(Result)[0].bundle["text/html"] == "<b>x</b>"
    assert outcome.errors.count("ValueError: no latex") == 3
    assert RUNNER.name not in outcome.errors


def test_what_is_too_large_to_display_is_named():
    outcome = run(
        "display({'text/plain': 'small', 'text/html': 'h' * (70 << 20)}, raw=True)\nprint('next')\n"
    )
    assert outcome.only(Display)[0].bundle == {"text/plain": "small"}
    assert "text/html (73400320 bytes)" in outcome.errors
    assert outcome.text == "next\n"


def test_what_json_cannot_say_is_displayed_as_text():
    outcome = run(
        "display({'text/plain': 'x', 'application/json': float('nan')}, raw=True,"
        " metadata={'a': float('inf')})"
    )
    display = outcome.only(Display)[0]
    assert display.bundle["application/json"] == "nan"
    assert display.metadata == {}


def test_modules_beside_the_cell_do_not_shadow_the_runner(tmp_path):
    for name in ("json", "ast", "traceback", "threading", "mine"):
        (tmp_path / f"{name}.py").write_text("value = 'shadow'")
    outcome = run("import mine\nprint(mine.value)\n1/0", cwd=tmp_path)
    assert outcome.text == "shadow\n"
    assert outcome.only(Error)[0].ename == "ZeroDivisionError"


def test_ipythons_display_reaches_the_notebook():
    if importlib.util.find_spec("IPython") is None:
        pytest.skip("no IPython")
    outcome = run(
        "from IPython.display import display as show, HTML, publish_display_data\n"
        "show(HTML('<b>x</b>'))\n"
        "publish_display_data({'text/plain': 'p'})\n"
        "print('end')\n"
    )
    html, published = outcome.only(Display)
    assert html.bundle["text/html"] == "<b>x</b>"
    assert html.bundle["text/plain"] == "<IPython.core.display.HTML object>"
    assert published.bundle == {"text/plain": "p"}


def test_pyplot_figures_show_at_the_end(tmp_path):
    """With a stand-in of matplotlib: the real one is large and optional."""
    package = tmp_path / "matplotlib"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "figure.py").write_text(
        "class Figure:\n    def savefig(self, file, **_): file.write(b'\\x89PNG\\r\\n\\x1a\\n')\n"
    )
    (package / "pyplot.py").write_text(
        "from .figure import Figure\n"
        "figures = {}\n"
        "def figure(n=None):\n"
        "    n = n or len(figures) + 1\n"
        "    return figures.setdefault(n, Figure())\n"
        "def get_fignums(): return list(figures)\n"
        "def close(f): figures.pop(next(n for n in figures if figures[n] is f))\n"
        "def show(): raise RuntimeError('no screen')\n"
        "def switch_backend(): globals()['show'].__signature__ = None\n"
    )
    outcome = run(
        "import matplotlib.pyplot as plt\n"
        "plt.switch_backend()\n"
        "plt.figure()\n"
        "plt.show()\n"
        "print('shown')\n"
        "plt.figure(); plt.figure()\n"
        "plt.figure(1)\n",
        cwd=tmp_path,
    )
    kinds = [type(event).__name__ for event in outcome.events]
    assert kinds == ["Display", "Stream", "Result", "Display"]
    assert outcome.events[0].bundle["image/png"] == PNG
    assert outcome.events[2].bundle["image/png"] == PNG


def test_a_cell_that_uses_asyncio(python):
    outcome = run(
        "import asyncio\n"
        "async def main():\n"
        "    await asyncio.sleep(0)\n"
        "    return 'done'\n"
        "asyncio.run(main())\n",
        python,
    )
    assert outcome.only(Result)[0].bundle["text/plain"] == "'done'"
