"""Cells that share an interpreter, which is a plain process of this machine here."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from cellblock_engine import (
    CellblockError,
    CommandNotFound,
    Conflict,
    ContainerNotFound,
    ExecRequest,
    InvalidInput,
    OutOfMemory,
    TimedOut,
)
from cellblock_kernel import (
    CellFailed,
    CellInterrupted,
    Display,
    Error,
    InterpreterLost,
    OutputLimits,
    OutputRefused,
    Session,
    Sessions,
    Stream,
    VariableRefused,
    run_script_in,
)
from cellblock_kernel.cells import session as session_module
from support.local_cells import Exit, FakeAttached

LOST = "variables of earlier cells are lost, files in the container stay"


class FakeContainer:
    """A container whose further commands run unconfined."""

    def __init__(self, python: str = sys.executable, identifier: str = "c0ffee") -> None:
        self.id, self.name, self.python = identifier, "lab", python
        self.judge = Exit
        self.end: Exception | None = TimeoutError("it runs")
        self.requests: list[ExecRequest] = []
        self.attached: list[FakeAttached] = []

    def spawn_exec(self, request: ExecRequest) -> FakeAttached:
        self.requests.append(request)
        argv = [self.python if request.argv[0] == "python3" else request.argv[0], *request.argv[1:]]
        attached = FakeAttached(argv, self._judged)
        for fd in attached.channels[len(request.channels) :]:
            attached.close_channel(fd)
        self.attached.append(attached)
        return attached

    def _judged(self, code: int) -> Exit:
        return self.judge(code)

    def wait(self, timeout_s: float) -> None:
        if self.end is not None:
            raise self.end

    def inspect(self) -> SimpleNamespace:
        return SimpleNamespace(image="an/image", status="running")


class Lab:
    """A session, driven cell by cell."""

    def __init__(self, container: FakeContainer) -> None:
        self.container = container
        self.session = Session(container, ExecRequest())
        self.events: list = []

    def run(self, source: str, **options):
        """Return what a cell returned or raised; ``events`` are its own."""
        self.events = []
        on_event = options.pop("on_event", self.events.append)
        try:
            return self.session.run(source, on_event, **options)
        except (CellblockError, KeyboardInterrupt) as error:
            return error

    def value(self, source: str) -> str:
        outcome = self.run(source)
        assert not isinstance(outcome, Exception), outcome
        return outcome.result.bundle["text/plain"]

    def text(self, name: str = "stdout") -> str:
        return "".join(e.text for e in self.events if isinstance(e, Stream) and e.name == name)

    @property
    def process(self):
        return self.container.attached[-1].process


def open_fds() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture(autouse=True)
def no_fd_is_left():
    before = open_fds()
    yield
    assert open_fds() == before


@pytest.fixture
def lab():
    lab = Lab(FakeContainer())
    yield lab
    lab.session.close()


@pytest.fixture
def old_lab(python):
    """Yield a lab for each Python that the runner is made for."""
    lab = Lab(FakeContainer(python))
    yield lab
    lab.session.close()


def interrupt_when(lab: Lab, text: str) -> None:
    """Interrupt the next cell, as a user does, once it has written ``text``."""

    def wait_for_it() -> None:
        deadline = time.monotonic() + 20
        while text not in lab.text() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    lab.events = []
    threading.Thread(target=wait_for_it, daemon=True).start()


def test_cells_share_their_names_and_each_has_its_end(old_lab):
    lab = old_lab
    assert lab.run("x = [1]\nprint('a')").result is None
    assert lab.events == [Stream("stdout", "a\n")]
    assert lab.value("x.append(2)\nx") == "[1, 2]"
    assert lab.value("__name__, __import__('__main__').x is x") == "('__main__', True)"
    assert lab.run("display(x)").result is None
    assert lab.events == [Display({"text/plain": "[1, 2]"})]
    assert len(lab.container.attached) == 1


def test_tracebacks_name_each_cell_and_errors_take_nothing_away(old_lab):
    lab = old_lab
    lab.run("def f(x):\n    return 1 / x", name="<cell 4>")
    outcome = lab.run("x = 5\nf(0)", name="<cell 5>")
    assert isinstance(outcome, CellFailed)
    (error,) = lab.events
    assert isinstance(error, Error)
    assert '  File "<cell 5>", line 2, in <module>\n    f(0)\n' in error.traceback
    assert '  File "<cell 4>", line 2, in f\n    return 1 / x\n' in error.traceback
    assert "runner" not in error.traceback
    assert "<string>" not in error.traceback
    assert lab.value("x") == "5"
    lab.run("if x", name="<cell 7>")
    assert lab.events[0].traceback.startswith('  File "<cell 7>", line 1\n')


def test_leaving_is_the_cells_and_not_the_interpreters(lab):
    lab.run("x = 1")
    assert str(lab.run("import sys\nsys.exit(3)")) == "SystemExit: 3"
    assert str(lab.run("sys.exit(139)")) == "SystemExit: 139"
    assert not isinstance(lab.run("exit()"), Exception)
    assert lab.value("x") == "1"


def test_variables_travel_in_and_out(lab):
    lab.run("seen = n + 1", given={"n": 41})
    assert lab.run("pass", wanted=["seen"]).variables == {"seen": 42}
    assert isinstance(lab.run("f = open", wanted=["f"]), VariableRefused)
    assert isinstance(lab.run("pass", wanted=["nowhere"]), VariableRefused)
    assert lab.run("pass", wanted=["seen"]).variables == {"seen": 42}


def test_what_awaits_shares_a_loop(old_lab):
    lab = old_lab
    lab.run("import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 'done'")
    lab.run("task = asyncio.ensure_future(f()) if await asyncio.sleep(0) is None else None")
    assert lab.value("await task") == "'done'"
    assert lab.value("asyncio.run(f())") == "'done'"
    assert isinstance(lab.run("async def g(): 1/0\nawait g()"), CellFailed)
    assert lab.value("await f()") == "'done'"


def test_an_interrupt_ends_the_cell_alone(old_lab):
    lab = old_lab
    lab.run("import time, asyncio\nx = 1")
    for work in ("time.sleep(60)", "await asyncio.sleep(60)"):
        interrupt_when(lab, "up")
        outcome = lab.run(f"try:\n    print('up')\n    {work}\nfinally:\n    print('clean')")
        assert isinstance(outcome, CellInterrupted)
        assert str(outcome) == "the cell was interrupted"
        assert lab.text() == "up\nclean\n"
    assert lab.value("x") == "1"
    assert len(lab.container.attached) == 1


def test_an_interrupt_between_cells_is_nobodys(lab):
    lab.run("import signal\nx = 1\nsignal.signal(signal.SIGINT, signal.SIG_IGN)")
    lab.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert lab.value("x, signal.getsignal(signal.SIGINT) is signal.default_int_handler") == (
        "(1, True)"
    )


def test_interrupts_at_any_moment_take_nothing_away(old_lab):
    inside, chance, interrupted = False, random.Random(1), 0

    def on_interrupt(*_: object) -> None:
        nonlocal inside
        if inside:
            inside = False
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        old_lab.run("import asyncio, os, time\nn = 0")
        for _ in range(80):
            work = chance.choice(
                [
                    "for i in range(40): print(i, flush=True)",
                    "display(6)\ntime.sleep(0.004)",
                    "await asyncio.sleep(0.004)",
                    "os.system('echo a')\n1/0",
                    "print('x' * 300_000)",
                ]
            )
            delay_s = chance.random() * 0.012
            timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            try:
                inside = True
                with suppress(CellFailed):
                    old_lab.session.run(f"n += 1\n{work}", lambda event: None)
                inside = False
            except KeyboardInterrupt:
                inside = False
                interrupted += 1
            timer.join()
        assert interrupted > 3
        assert int(old_lab.value("n")) > 20
        assert len(old_lab.container.attached) == 1
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_cell_that_does_not_stop_costs_the_interpreter(lab, monkeypatch):
    monkeypatch.setattr(session_module, "GRACE_S", 0.3)
    lab.run("import time\nx = 1")
    interrupt_when(lab, "up")
    outcome = lab.run(
        "print('up')\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass"
    )
    assert isinstance(outcome, CellInterrupted)
    assert str(outcome) == (
        f"the cell did not stop within 0.3 s, and its interpreter was killed; {LOST}"
    )
    assert lab.value("'x' in globals()") == "False"


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("import os; os._exit(0)", "exit status 0"),
        ("import os; os._exit(3)", "exit status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    ],
)
def test_a_cell_that_ends_the_interpreter(lab, source, how):
    lab.run("x = 1")
    outcome = lab.run(source)
    assert isinstance(outcome, InterpreterLost)
    assert str(outcome) == f"the interpreter in container lab ended during the cell ({how}); {LOST}"
    assert lab.value("'x' in globals()") == "False"
    assert len(lab.container.attached) == 2


def test_nothing_is_said_to_be_lost_where_nothing_was(lab):
    assert "lost" not in str(lab.run("import os; os._exit(3)"))


def test_an_interpreter_that_ended_between_cells_runs_no_cell(lab):
    lab.run("x = 1")
    lab.process.kill()
    lab.process.wait()
    outcome = lab.run("print('ran')")
    assert isinstance(outcome, InterpreterLost)
    assert "ended since the last cell (SIGKILL)" in str(outcome)
    assert "this cell has not run" in str(outcome)
    assert LOST in str(outcome)
    assert lab.events == []
    lab.run("print('ran')")
    assert lab.text() == "ran\n"


@pytest.mark.parametrize("end", [None, ContainerNotFound("gone")])
def test_an_interpreter_ends_with_its_container(lab, end):
    lab.run("x = 1")
    lab.container.end = end
    lab.process.kill()
    lab.process.wait()
    assert "its container has ended, and variables are lost: start it again" in str(lab.run("x"))


def test_the_verdict_is_the_engines_where_it_was_killed(lab):
    verdict = OutOfMemory(limit_bytes=64 << 20, peak_bytes=64 << 20, own=True)
    lab.container.judge = lambda code: Exit(code, verdict if code else None)
    lab.run("import os, signal\nx = 1")
    outcome = lab.run("os.kill(os.getpid(), signal.SIGKILL)")
    assert isinstance(outcome, OutOfMemory)
    assert outcome.limit_bytes == outcome.peak_bytes == 64 << 20
    assert str(outcome).endswith(f"give it more with --memory; {LOST}")
    # A child of an earlier cell is what was killed then.
    assert isinstance(lab.run("import os; os._exit(3)"), InterpreterLost)


def test_a_time_limit_is_an_interrupt(lab):
    lab.run("import time\nx = 1")
    started = time.monotonic()
    outcome = lab.run("time.sleep(60)", timeout_s=0.3)
    assert isinstance(outcome, TimedOut)
    assert (outcome.limit_s, str(outcome).count("lost")) == (0.3, 0)
    assert time.monotonic() - started < 5
    assert lab.value("x") == "1"


def test_a_time_limit_ends_a_question(lab):
    started = time.monotonic()
    outcome = lab.run("input()", ask=lambda request: time.sleep(30) or "late", timeout_s=0.3)
    assert isinstance(outcome, TimedOut)
    assert time.monotonic() - started < 5
    lab.run("print(input())", ask=lambda request: "in time")
    assert lab.text() == "in time\n"


def test_only_the_cells_own_thread_asks(lab):
    lab.run("x = input('a? ')", ask=lambda request: request.prompt)
    assert lab.value("x") == "'a? '"
    lab.run(
        "import threading\ndef ask():\n    try: input()\n"
        "    except NotImplementedError as error: print(error)\n"
        "t = threading.Thread(target=ask)\nt.start()\nt.join()",
        ask=lambda request: "x",
    )
    assert lab.text() == "only the cell's main thread can ask for input\n"
    assert isinstance(lab.run("input()"), CellFailed), "without anybody to ask"


def test_raw_output_belongs_to_its_cell(lab):
    lab.run("import os\nprint('a')\nos.system('echo b; echo c >&2')\nprint('d')\nos.write(1, b'e')")
    assert (lab.text(), lab.text("stderr")) == ("a\nb\nd\ne", "c\n")
    lab.run("print('f')")
    assert lab.text() == "f\n"


def test_what_a_thread_prints_between_cells_comes_with_the_next_and_whole(lab):
    lab.run(
        "import threading, time\ndone = threading.Event()\n"
        "def talk():\n    time.sleep(0.3)\n"
        "    for n in range(40_000): print('line', n)\n    done.set()\n"
        "threading.Thread(target=talk).start()\nprint('started')"
    )
    assert lab.text() == "started\n"
    time.sleep(0.6)  # more than a pipe holds: it waits for its reader
    lab.run("done.wait(20)\nprint('next')")
    lines = lab.text().splitlines()
    assert lines == [*(f"line {n}" for n in range(40_000)), "next"]


def test_a_forked_child_that_runs_on_takes_no_cells(lab):
    lab.run("import os, time\npid = os.fork()\nx = 1")
    for n in range(5):
        assert lab.value(f"x, {n}") == f"(1, {n})"
    assert lab.value("os.waitpid(pid, 0) == (pid, 0)") == "True"


def test_the_limits_are_each_cells(lab):
    limits = OutputLimits(total_bytes=1 << 20, outputs=2)
    lab.run("x = 1")
    for _ in range(3):
        assert not isinstance(lab.run("print('x' * 700_000)", limits=limits), Exception)
    lab.run("for n in range(5): display(n)", limits=limits)
    assert [e.bundle["text/plain"] for e in lab.events if isinstance(e, Display)] == ["0", "1"]
    outcome = lab.run("print('x' * 3_000_000)", limits=limits)
    assert isinstance(outcome, OutputRefused)
    assert "its interpreter ended: it passed 1 MiB" in str(outcome)
    assert str(outcome).endswith(LOST)
    assert lab.value("'x' in globals()") == "False"


FORGE = """
import json, os, struct, time
def forge(payload=b"", **header):
    head = json.dumps(header).encode()
    os.write(4, struct.pack("!II", len(head), len(payload)) + head + payload)
"""


@pytest.mark.parametrize(
    "frames",
    [
        "os.write(4, b'\\xff' * 100)",
        "os.write(4, struct.pack('!II', 1 << 20, 0))",
        "forge(kind='end', number=2)",
        "forge(kind='end', number=2, status=-1)",
        "forge(kind='end', number='2', status=0)",
        "forge(kind='variable', name='x', size=1)",
    ],
)
def test_bytes_that_are_no_frames_cost_the_interpreter(lab, frames):
    lab.run(FORGE)
    outcome = lab.run(f"{frames}\ntime.sleep(60)")
    assert isinstance(outcome, OutputRefused)
    assert str(outcome).endswith(LOST)
    assert lab.value("6 * 7") == "42"


def test_the_end_of_another_cell_ends_nothing(lab):
    lab.run(FORGE)
    lab.run(
        "forge(kind='end', number=1, status=0)\nforge(kind='end', number=7, status=0)\nprint(1)"
    )
    assert lab.text() == "1\n"


@pytest.mark.attack(63)
def test_a_cell_that_forges_its_end_cannot_confuse_the_host(lab):
    lab.run(FORGE)
    lab.run("forge(kind='end', number=2, status=0)\ntime.sleep(0.3)\nprint('\\x1b]0;late\\x07')")
    assert lab.events == []
    assert not isinstance(lab.run("print('own')"), Exception)
    assert lab.text() == "\nown\n", "cleaned as ever, and each cell ends by its own number"


def test_a_forger_that_reads_nothing_is_ended(lab):
    lab.run(FORGE)
    lab.run(
        "forge(kind='end', number=2, status=0)\nforge(kind='end', number=3, status=0)\n"
        "time.sleep(60)"
    )
    outcome = lab.run("pass", given={"x": b"x" * (1 << 20)})
    assert isinstance(outcome, OutputRefused)
    assert "was not even read" in str(outcome)
    assert lab.value("6 * 7") == "42"


def test_a_cell_that_closes_its_channel_costs_the_interpreter(lab):
    started = time.monotonic()
    outcome = lab.run("import os, time\nos.close(4)\ntime.sleep(60)")
    assert isinstance(outcome, InterpreterLost)
    assert time.monotonic() - started < 10
    assert lab.value("6 * 7") == "42"


def test_one_cell_at_a_time(lab):
    seen = []
    lab.run("print(1)", on_event=lambda event: seen.append(lab.session.run))
    with pytest.raises(Conflict, match="is busy"):
        lab.session.run("print(1)", lambda event: lab.session.run("2", print))
    assert lab.value("6 * 7") == "42"


def test_a_surface_that_fails_costs_the_interpreter(lab):
    with pytest.raises(RuntimeError):
        lab.session.run("print(1)", lambda event: (_ for _ in ()).throw(RuntimeError))
    assert lab.process.poll() is not None
    assert lab.value("6 * 7") == "42"


def test_a_python_that_is_too_old_or_missing_says_so(lab, tmp_path):
    lab.container.python = "/bin/false"
    assert "Python 3.8 or newer" in str(lab.run("1"))

    def missing(request):
        raise CommandNotFound(request.argv[0])

    lab.container.spawn_exec = missing
    assert "container lab has neither python3 nor python" in str(lab.run("1"))


def test_one_session_for_each_container_and_user():
    sessions = Sessions()
    one, other = FakeContainer(identifier="1"), FakeContainer(identifier="2")
    try:
        first = sessions.of(one, ExecRequest(env={"A": "1"}, workdir="/tmp"))
        first.run("import os\nx = os.environ.get('HOME')", print)
        assert sessions.of(one, ExecRequest()) is first
        assert sessions.of(one, ExecRequest(env={"A": "1"}, workdir="/tmp")) is first
        for late in (ExecRequest(env={"A": "2"}), ExecRequest(workdir="/")):
            with pytest.raises(InvalidInput, match="--fresh"):
                sessions.of(one, late)
        assert sessions.of(one, ExecRequest(user="5")) is not first
        assert sessions.of(other, ExecRequest()) is not first
        fresh = sessions.of(one, ExecRequest(env={"A": "2"}), fresh=True)
        assert fresh is not first
        assert one.attached[0].process.poll() is not None
        fresh.run("x = 1", print)
        one.attached[-1].process.kill()
        one.attached[-1].process.wait()
        sessions.of(other, ExecRequest())
        assert not fresh.is_started, "what has ended elsewhere is given back"
    finally:
        sessions.close()


def test_a_script_shares_nothing_and_what_it_leaves_runs_on():
    container, events = FakeContainer(), []
    container.judge = Exit
    script = "echo hi; cat; sleep 5 & echo trouble >&2"
    started = time.monotonic()
    result = run_script_in(container, ExecRequest(), ["sh"], script, events.append)
    assert events == [Stream("stdout", "hi\n"), Stream("stderr", "trouble\n")]
    assert result.container_id == "c0ffee"
    assert time.monotonic() - started < 4
    with pytest.raises(CellFailed, match="ExitStatus: 3"):
        run_script_in(container, ExecRequest(), ["sh", "-e"], "exit 3", events.append)
    with pytest.raises(TimedOut):
        run_script_in(container, ExecRequest(), ["sh"], "sleep 9", events.append, timeout_s=0.2)
