"""One cell, from its text to its end, with a process for itself, mostly a container of its own.

The engine runs the container; the runner inside (``guest/runner.py``) runs the text with the
image's Python. Here what comes out is read, cleaned and handed on in order, and the end is
judged: the kernel's verdict, the user's interrupt, the cell's own exception.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cellblock_engine import Bind, CommandNotFound

from .events import Event, InputRequest, Result
from .frames import encode_cell
from .interrupts import Interrupts
from .judgement import judge_process, variables
from .output import OutputLimits
from .running import RunningCell
from .variables import pack

if TYPE_CHECKING:
    from cellblock_engine import Container, Engine, ExecRequest, RunRequest

RUNNER = Path(__file__).parent.parent / "guest" / "runner.py"
RUNNER_TARGET = "/dev/.cellblock/runner.py"
SCRIPT_TARGET = "/dev/.cellblock/cell"
PYTHONS = ("python3", "python")
_SCRIPT_CHANNEL = "/dev/fd/3"


@dataclass(frozen=True)
class CellResult:
    """A cell that ended well, in the container of this id, after so many seconds.

    ``variables`` are those that were wanted of it.
    """

    container_id: str
    duration_s: float
    result: Result | None
    variables: Mapping[str, object] = field(default_factory=dict)


def run_cell(
    engine: Engine,
    request: RunRequest,
    source: str,
    on_event: Callable[[Event], None],
    *,
    limits: OutputLimits | None = None,
    given: Mapping[str, object] | None = None,
    wanted: Sequence[str] = (),
    ask: Callable[[InputRequest], str] | None = None,
) -> CellResult:
    """Run ``source`` with the Python of the request's image and return how it ended.

    ``request`` says all but the command, which is set here. ``on_event`` is called in the
    calling thread, in the order of the output. Called in the main thread, SIGINT interrupts the
    cell: its Python gets two seconds to end, then the container is killed. Copies of the
    variables ``given`` are in its namespace, and copies of those ``wanted`` of it are in the
    result, in safe forms only: nothing from inside is unpickled, evaluated or imported.
    ``ask`` is called in the calling thread for a line that the cell wants typed; it raises
    NotImplementedError where nobody can be asked, and EOFError for the end of input.

    Raises CellFailed for an exception or exit status of the cell (its traceback was an event),
    CellInterrupted, the engine's verdict (OutOfMemory, TimedOut, ...), OutputRefused,
    VariableRefused (a variable without a safe form, or missing in a cell that ended), Unsupported
    for an image whose Python is older than 3.8, and what the engine raises for a container that
    cannot start (CommandNotFound where the image has no Python).
    """
    limits = limits or OutputLimits()
    cell = encode_cell(source, pack(given or {}, limits.variable_bytes), wanted)
    with Interrupts() as interrupts:
        for python in PYTHONS:
            with contextlib.suppress(CommandNotFound):
                started = time.monotonic()
                attached = engine.spawn(_request(request, python))
                with attached:
                    run = RunningCell(
                        attached,
                        interrupts,
                        on_event=on_event,
                        ask=ask,
                        limits=limits,
                        wanted=wanted,
                    )
                    exit_ = run.follow(cell)
                judge_process(run, exit_, request.image, "container")
                duration_s = time.monotonic() - started
                return CellResult(
                    attached.container.id, duration_s, run.output.result, variables(run)
                )
    raise CommandNotFound(
        f"image {request.image} has neither python3 nor python on its PATH: a cell needs "
        "Python 3.8 or newer in the image; run its commands with the line %container run"
    )


def _request(request: RunRequest, python: str) -> RunRequest:
    return replace(
        request,
        argv=(python, "-u", RUNNER_TARGET),
        entrypoint="",
        binds=(*request.binds, Bind(RUNNER, RUNNER_TARGET)),
        channels=("in", "out", "out", "out"),
    )


def run_script(
    engine: Engine,
    request: RunRequest,
    interpreter: Sequence[str],
    source: str,
    on_event: Callable[[Event], None],
    *,
    limits: OutputLimits | None = None,
) -> CellResult:
    """Run ``source`` with an interpreter of the request's image and return how it ended.

    The interpreter's words are followed by the name of a file that holds the text. It has no
    input; its outputs are events, and there is no value. Interrupts and errors are those of
    :func:`run_cell`, CommandNotFound where the image does not have the interpreter.
    """
    with Interrupts() as interrupts, _script(source) as path:
        started = time.monotonic()
        request = replace(
            request,
            argv=(*interpreter, SCRIPT_TARGET),
            entrypoint="",
            binds=(*request.binds, Bind(path, SCRIPT_TARGET)),
        )
        with engine.spawn(request) as attached:
            run = RunningCell(
                attached,
                interrupts,
                on_event=on_event,
                ask=None,
                limits=limits or OutputLimits(),
                wanted=(),
            )
            exit_ = run.follow()
        judge_process(run, exit_, request.image, "container")
        return CellResult(attached.container.id, time.monotonic() - started, None)


def run_script_in(
    container: Container,
    request: ExecRequest,
    interpreter: Sequence[str],
    source: str,
    on_event: Callable[[Event], None],
    *,
    limits: OutputLimits | None = None,
    timeout_s: float | None = None,
) -> CellResult:
    """Run ``source`` with an interpreter of a running container and return how it ended.

    As :func:`run_script` does, but the file is a pipe, and what the script leaves running in the
    container goes on. ``request`` says all but the command. Raises also TimedOut, and Conflict if
    the container does not run.
    """
    request = replace(request, argv=(*interpreter, _SCRIPT_CHANNEL), channels=("in",))
    with Interrupts() as interrupts:
        started = time.monotonic()
        with container.spawn_exec(request) as attached:
            run = RunningCell(
                attached,
                interrupts,
                on_event=on_event,
                ask=None,
                limits=limits or OutputLimits(),
                wanted=(),
                until="exited",
                timeout_s=timeout_s,
            )
            exit_ = run.follow(source.encode("utf-8", "surrogateescape"))
        judge_process(run, exit_, container.name, "process")
        return CellResult(container.id, time.monotonic() - started, None)


@contextlib.contextmanager
def _script(source: str) -> Iterator[Path]:
    """Keep a text in a file that every user of the container can read."""
    with tempfile.TemporaryDirectory(prefix="cellblock-cell-") as directory:
        path = Path(directory, "cell")
        path.write_bytes(source.encode("utf-8", "surrogateescape"))
        path.chmod(0o644)
        yield path
