"""run_cell against an engine that starts the runner as a plain process of this machine."""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

from cellblock_engine import (
    CellblockError,
    CommandNotFound,
    OutOfMemory,
    Removal,
    RunRequest,
    StartFailed,
    TimedOut,
    Unsupported,
)
from cellblock_kernel import (
    CellFailed,
    CellInterrupted,
    Display,
    Error,
    OutputLimits,
    OutputRefused,
    Result,
    Stream,
    run_cell,
)
from cellblock_kernel.cells import running
from cellblock_kernel.cells.cell import RUNNER
from support.local_cells import Exit, FakeAttached


class FakeEngine:
    """Starts the runner, or ``argv`` instead, unless it is ``refusing`` the command.

    ``judge`` makes the exit of a status.
    """

    def __init__(self, argv: list[str] | None = None, judge=Exit, refusing=()) -> None:
        self.requests: list[RunRequest] = []
        self.attached: list[FakeAttached] = []
        self._argv, self._judge, self._refusing = argv, judge, dict(refusing)

    def spawn(self, request: RunRequest) -> FakeAttached:
        self.requests.append(request)
        if request.argv[0] in self._refusing:
            raise self._refusing[request.argv[0]]
        argv = self._argv or [sys.executable, "-u", str(RUNNER)]
        self.attached.append(FakeAttached(argv, self._judge))
        return self.attached[-1]


def run(source, engine=None, *, limits=None):
    """Return the events of a cell and what it returned or raised."""
    events: list = []
    try:
        outcome = run_cell(
            engine or FakeEngine(),
            RunRequest(removal=Removal.AT_END),
            source,
            events.append,
            limits=limits,
        )
    except (CellblockError, TimeoutError, KeyboardInterrupt) as error:
        outcome = error
    return events, outcome


def text(events, name="stdout"):
    return "".join(e.text for e in events if isinstance(e, Stream) and e.name == name)


def open_fds() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture(autouse=True)
def no_fd_is_left():
    before = open_fds()
    yield
    assert open_fds() == before


def test_a_cell_that_ends_well():
    events, outcome = run("print('a'); display(1); print('b'); 6 * 7")
    assert events == [
        Stream("stdout", "a\n"),
        Display({"text/plain": "1"}),
        Stream("stdout", "b\n"),
        Result({"text/plain": "42"}),
    ]
    assert outcome.result == Result({"text/plain": "42"})
    assert outcome.container_id == "c0ffee"
    assert outcome.duration_s < 10


def test_the_request_asks_for_python_with_the_runner():
    engine = FakeEngine()
    run("pass", engine)
    (request,) = engine.requests
    assert request.argv == ("python3", "-u", "/dev/.cellblock/runner.py")
    assert request.entrypoint == ""
    assert request.channels == ("in", "out", "out", "out")
    (bind,) = request.binds
    assert (bind.source, bind.target, bind.writable) == (RUNNER, request.argv[2], False)


def test_an_exception_is_shown_then_raised_short():
    events, outcome = run("print('a')\nraise ValueError('first\\nsecond')")
    assert events[0] == Stream("stdout", "a\n")
    assert isinstance(events[1], Error)
    assert '  File "<cell>", line 2' in events[1].traceback
    assert isinstance(outcome, CellFailed)
    assert (outcome.ename, outcome.evalue) == ("ValueError", "first\nsecond")
    assert outcome._render_traceback_() == ["CellFailed: ValueError: first ..."]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(9)", "SystemExit: 9"),
        ("import os; os.abort()", "SIGABRT: this signal ended the cell's process"),
    ],
)
def test_other_failures(source, message):
    _, outcome = run(source)
    assert isinstance(outcome, CellFailed)
    assert str(outcome) == message


def test_exit_0_is_no_failure():
    assert run("import sys; print(1); sys.exit(0)")[1].result is None


def test_raw_output_is_streamed_and_split_characters_are_joined():
    source = (
        "import os, time\n"
        "os.write(1, 'ü'.encode()[:1]); time.sleep(0.1); os.write(1, 'ü'.encode()[1:])\n"
        "os.write(2, b'\\xff raw\\x1b[2J\\n')\n"
    )
    events, _ = run(source)
    assert text(events) == "ü"
    assert text(events, "stderr") == "\ufffd raw\n"


def test_output_of_children_is_in_order_with_prints():
    source = (
        "import os, subprocess\n"
        "for n in range(10):\n"
        "    print('a', n)\n"
        "    subprocess.run(['echo', 'b', str(n)])\n"
        "    display(n)\n"
        "    os.system(f'echo c {n}')\n"
    )
    events, _ = run(source)
    shown = [
        event.text if isinstance(event, Stream) else event.bundle["text/plain"] for event in events
    ]
    expected = "".join(f"a {n}\nb {n}\n{n}c {n}\n" for n in range(10))
    assert "".join(shown) == expected


def test_a_child_that_floods_does_not_hold_prints_up():
    source = (
        "import subprocess, time\n"
        "flood = subprocess.Popen(['sh', '-c', 'while echo flood; do :; done'])\n"
        "started = time.monotonic()\n"
        "for n in range(2000): print(n, flush=True)\n"
        "flood.kill()\n"
        "time.monotonic() - started\n"
    )
    _, outcome = run(source)
    assert float(outcome.result.bundle["text/plain"]) < 10


def test_output_comes_while_the_cell_runs():
    times = []
    run_cell(
        FakeEngine(),
        RunRequest(removal=Removal.AT_END),
        "import time\nfor n in range(3):\n    print(n); time.sleep(0.3)",
        lambda event: times.append(time.monotonic()),
    )
    assert len(times) == 3
    assert times[2] - times[0] > 0.4


def test_a_large_source_and_a_large_output():
    source = "x = '''" + "s" * 3_000_000 + "'''\nprint(x[:1000] * 5000)\nlen(x)"
    events, outcome = run(source)
    assert text(events) == "s" * 5_000_000 + "\n"
    assert outcome.result.bundle["text/plain"] == "3000000"


@pytest.mark.attack(63)
def test_control_sequences_stay_inside():
    events, outcome = run(
        "print('\\x1b]0;title\\x07\\x1b[31mred\\x1b[0m')\n"
        "class R:\n"
        "    def __repr__(self): return '\\x1b[2Jr'\n"
        "display(R())\n"
        "class E\\u00e9(Exception): pass\n".replace("\\u00e9", "x")
        + "raise Ex('\\x1b]52;c;x\\x07\\x1b[1mbold')\n"
    )
    assert events[0] == Stream("stdout", "\x1b[31mred\x1b[0m\n")
    assert events[1].bundle["text/plain"] == "r"
    assert "\x1b]" not in events[2].traceback
    assert "\x1b[1mbold" in events[2].traceback
    assert str(outcome) == "Ex: bold"


@pytest.mark.attack(26)
def test_a_cell_shows_so_many_outputs_and_its_end():
    source = "for n in range(50): display(n)\nprint('text')\n1/0"
    events, outcome = run(source, limits=OutputLimits(outputs=10))
    assert [event.bundle["text/plain"] for event in events[:10]] == [str(n) for n in range(10)]
    assert [type(event) for event in events[10:]] == [Error, Stream]
    assert events[-1] == Stream(
        "stderr", "cellblock: 41 more outputs were left out: a cell shows 10\n"
    )
    assert isinstance(outcome, CellFailed)
    _, outcome = run("for n in range(50): display(n)\n7", limits=OutputLimits(outputs=10))
    assert outcome.result == Result({"text/plain": "7"})


def test_text_that_hops_between_streams_is_many_outputs_and_other_text_is_one():
    hop = "import sys\nfor n in range(50): print('o'); print('e', file=sys.stderr)"
    events, _ = run(hop, limits=OutputLimits(outputs=10))
    assert sum(event == Stream("stdout", "o\n") for event in events) == 5
    assert events[-1].text.startswith("cellblock: ")
    stay = "for n in range(50): print(n, flush=True)"
    events, _ = run(stay, limits=OutputLimits(outputs=1))
    assert text(events) == "".join(f"{n}\n" for n in range(50))
    assert text(events, "stderr") == ""


class ReadyEngine(FakeEngine):
    """Returns once frames and raw output are there; the near ends do not block."""

    def spawn(self, request: RunRequest) -> FakeAttached:
        attached = super().spawn(request)
        _, frames, raw, _ = attached.channels
        for fd in (frames, raw):
            os.set_blocking(fd, False)
            assert select.select([fd], [], [], 20)[0]
        return attached


def test_output_that_the_container_takes_back_is_waited_for_no_longer():
    head = b'{"kind":"stream","name":"stdout"}'
    frame = struct.pack("!II", len(head), 5) + head + b"frame"
    code = f"import os, time; os.write(5, b'stolen'); os.write(4, {frame!r}); time.sleep(0.5); "
    code += "os.write(5, b' raw')"
    engine = ReadyEngine([sys.executable, "-c", code])
    events = []

    def steal_then_note(event) -> None:
        if not events:  # between the poll that announced it and the read
            assert os.read(engine.attached[0].channels[2], 100) == b"stolen"
        events.append(event)

    run_cell(engine, RunRequest(removal=Removal.AT_END), "", steal_then_note)
    assert text(events) == "frame raw"


# interrupts


def interrupt_after(events: list, text_: str, *, times: int = 1, apart_s: float = 0.3):
    """Send SIGINT to this process once the text has come."""

    def wait_and_send() -> None:
        deadline = time.monotonic() + 20
        while text_ not in text(events) and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(times if text_ in text(events) else 0):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(apart_s)

    thread = threading.Thread(target=wait_and_send)
    thread.start()
    return thread


def run_interrupted(source: str, **how) -> tuple:
    events: list = []
    engine = FakeEngine()
    thread = interrupt_after(events, "up", **how)
    started = time.monotonic()
    outcome: object
    try:
        outcome = run_cell(engine, RunRequest(removal=Removal.AT_END), source, events.append)
    except (CellblockError, TimeoutError, KeyboardInterrupt) as error:
        outcome = error
    seconds = time.monotonic() - started
    thread.join()
    return events, outcome, engine.attached[0], seconds


def test_an_interrupt_ends_the_cell_with_its_traceback():
    before = signal.getsignal(signal.SIGINT)
    events, outcome, attached, seconds = run_interrupted(
        "import time\nprint('up')\ntry:\n    time.sleep(60)\nfinally:\n    print('clean')"
    )
    assert isinstance(outcome, CellInterrupted)
    assert isinstance(outcome, KeyboardInterrupt)
    assert outcome._render_traceback_() == ["CellInterrupted: the cell was interrupted"]
    assert attached.signals == [signal.SIGINT]
    assert text(events).split() == ["up", "clean"]
    assert events[-1].ename == "KeyboardInterrupt"
    assert seconds < 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.attack(29)
def test_a_cell_that_does_not_stop_is_killed():
    _, outcome, attached, seconds = run_interrupted(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up')\n"
        "time.sleep(60)"
    )
    assert isinstance(outcome, CellInterrupted)
    assert "did not stop within 2 s" in str(outcome)
    assert attached.signals == [signal.SIGINT, signal.SIGKILL]
    assert 1.9 < seconds < 10


def test_a_second_interrupt_kills_at_once():
    _, outcome, attached, seconds = run_interrupted(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up')\n"
        "time.sleep(60)",
        times=2,
    )
    assert isinstance(outcome, CellInterrupted)
    assert attached.signals == [signal.SIGINT, signal.SIGKILL]
    assert seconds < 1.9


def test_a_cell_that_handles_its_interrupt_ends_well():
    events, outcome, _, _ = run_interrupted(
        "import time\nprint('up')\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('ok')\n5"
    )
    assert outcome.result == Result({"text/plain": "5"})
    assert text(events) == "up\nok\n"


def test_an_interrupt_in_a_flood_keeps_what_came_before():
    events, outcome, _, _ = run_interrupted(
        "print('up')\nn = 0\nwhile True:\n    n += 1\n    print(n)\n"
    )
    assert isinstance(outcome, CellInterrupted)
    numbers = [int(line) for line in text(events).split()[1:]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_cell_in_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run("print(1)\n2")))
    thread.start()
    thread.join(20)
    assert outcomes[0][1].result == Result({"text/plain": "2"})
    assert signal.getsignal(signal.SIGINT) is before


# ends that the engine judges


def test_the_engines_verdict_is_raised_after_the_output():
    verdict = OutOfMemory(limit_bytes=64 << 20, peak_bytes=64 << 20, own=True)
    engine = FakeEngine(judge=lambda code: Exit(code, verdict))
    events, outcome = run("print('before')\nimport os; os.kill(os.getpid(), 9)", engine)
    assert text(events) == "before\n"
    assert outcome is verdict


def test_a_verdict_goes_before_the_exception_it_caused():
    verdict = TimedOut(limit_s=1)
    events, outcome = run("1/0", FakeEngine(judge=lambda code: Exit(code, verdict)))
    assert outcome is verdict
    assert isinstance(events[-1], Error)


def test_a_start_that_failed_is_raised():
    error = StartFailed("no")
    _, outcome = run("1", FakeEngine(refusing={"python3": error}))
    assert outcome is error


def test_an_image_whose_only_name_for_it_is_python():
    engine = FakeEngine(refusing={"python3": CommandNotFound("no python3")})
    _, outcome = run("7", engine)
    assert outcome.result == Result({"text/plain": "7"})
    assert [request.argv[0] for request in engine.requests] == ["python3", "python"]


def test_an_image_without_python():
    missing = CommandNotFound("not found")
    engine = FakeEngine(refusing={"python3": missing, "python": missing})
    _, outcome = run("1", engine)
    assert isinstance(outcome, CommandNotFound)
    assert "neither python3 nor python" in str(outcome)


def test_a_python_that_is_too_old():
    engine = FakeEngine(["sh", "-c", "echo SyntaxError >&2; exit 1"])
    events, outcome = run("1", engine)
    assert isinstance(outcome, Unsupported)
    assert "needs Python 3.8 or newer" in str(outcome)
    assert text(events, "stderr") == "SyntaxError\n"


# hostile containers


def test_a_cell_that_breaks_the_protocol_is_ended():
    started = time.monotonic()
    events, outcome = run("import os, time; print('a'); os.write(4, b'x' * 100); time.sleep(60)")
    assert isinstance(outcome, OutputRefused)
    assert "\n" not in str(outcome)
    assert text(events) == "a\n"
    assert time.monotonic() - started < 10


def test_a_cell_that_sends_too_much_is_ended():
    limits = OutputLimits(total_bytes=1 << 20)
    for source in ("while True: print('x' * 1000)", "import os\nwhile 1: os.write(2, b'x' * 9999)"):
        events, outcome = run(source, limits=limits)
        assert isinstance(outcome, OutputRefused)
        assert "1 MiB" in str(outcome)
        assert len(text(events) + text(events, "stderr")) <= 1 << 20


def test_a_promised_frame_above_the_cap_is_refused():
    events, outcome = run(
        "import os, struct, time; os.write(4, struct.pack('!II', 9, 0xffffffff)); time.sleep(60)"
    )
    assert isinstance(outcome, OutputRefused)
    assert events == []


def test_unknown_kinds_are_named_once():
    head = b'{"kind": "comm_open"}'
    data = struct.pack("!II", len(head), 0) + head
    events, _ = run(f"import os\nfor _ in range(5): os.write(4, {data!r})")
    assert events == [Stream("stderr", "cellblock: output of unknown kinds ignored: comm_open\n")]


def test_a_cell_that_closes_everything_still_ends():
    events, outcome = run(
        "import os, time\nprint('a')\nos.closerange(0, 50)\ntime.sleep(0.7)\nos._exit(0)"
    )
    assert text(events) == "a\n"
    assert outcome.result is None


def test_an_observer_that_fails_ends_the_cell():
    engine = FakeEngine()

    def fail(event) -> None:
        raise RuntimeError("front end gone")

    with pytest.raises(RuntimeError, match="front end gone"):
        run_cell(engine, RunRequest(), "print(1)\nimport time; time.sleep(60)", fail)
    assert engine.attached[0].process.poll() is not None


def test_a_killed_container_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(running, "_KILLED_S", 0.5)
    monkeypatch.setattr(FakeAttached, "kill", lambda self: None)
    _, outcome = run("import os, time; os.write(4, b'x' * 99); time.sleep(60)")
    assert isinstance(outcome, TimeoutError)
