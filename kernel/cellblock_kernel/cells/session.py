"""A Python that lives in a running container and runs one cell after another.

It is a further command of the container, which the engine ends with this process. The runner
(``guest/runner.py``) is sent to it ahead of the cells, as the container has no file of it.
"""

from __future__ import annotations

import contextlib
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from cellblock_engine import (
    CellblockError,
    CommandNotFound,
    Conflict,
    ExecRequest,
    Exit,
    InvalidInput,
    OutOfMemory,
)

from ..errors import CellFailed, InterpreterLost
from .cell import PYTHONS, RUNNER, CellResult
from .events import Event, InputRequest
from .frames import CELL_NAME, encode_cell
from .interrupts import Interrupts
from .judgement import judge, name_ignored, signal_of, too_old, variables
from .output import OutputLimits
from .running import RunningCell, Turn
from .variables import pack

if TYPE_CHECKING:
    from cellblock_engine import Attached, Container

GRACE_S = 10.0
"""How long a cell may take to stop, in seconds: longer than elsewhere, as much may be lost."""

_KILLED_S = 5.0
_CONTAINER_END_S = 0.5
_KILLED_STATUS = 128 + signal.SIGKILL
_BOOTSTRAP = """\
import os, sys
text = b""
while len(text) < int(sys.argv[1]):
    text += os.read(3, int(sys.argv[1]) - len(text)) or sys.exit(1)
if sys.path[0] == "":
    sys.path[0] = os.path.dirname(sys.argv[2])
runner = {"__name__": "__cellblock__"}
exec(compile(text, sys.argv[2], "exec"), runner)
runner["serve"]()
"""
_RUNNER_NAME = "/dev/.cellblock/runner.py"


class Session:
    """One interpreter in a container, started by its first cell. Close it to end it."""

    def __init__(self, container: Container, request: ExecRequest) -> None:
        """``request`` says all but the command and its channels."""
        self._container, self._request = container, request
        self._attached: Attached | None = None
        self._turn = Turn()
        self._busy = threading.Lock()

    @property
    def is_started(self) -> bool:
        """Tell whether it has an interpreter, be it one that has ended since the last cell."""
        return self._attached is not None

    @property
    def has_ended(self) -> bool:
        """Tell whether its interpreter has ended."""
        return self._attached is not None and _is_readable(self._attached.fileno())

    def check(self, request: ExecRequest) -> None:
        """Raise InvalidInput for variables or a directory that would come too late."""
        started = self._request
        env = any(started.env.get(name) != value for name, value in request.env.items())
        if env or request.workdir not in (None, started.workdir):
            raise InvalidInput(
                "the interpreter of this container was started with another environment or "
                "working directory: leave -e and -w out, set os.environ, or start it anew with "
                "--fresh, which loses its variables"
            )

    def run(
        self,
        source: str,
        on_event: Callable[[Event], None],
        *,
        name: str = CELL_NAME,
        limits: OutputLimits | None = None,
        given: Mapping[str, object] | None = None,
        wanted: Sequence[str] = (),
        ask: Callable[[InputRequest], str] | None = None,
        timeout_s: float | None = None,
    ) -> CellResult:
        """Run ``source`` in the interpreter's namespace and return how it ended.

        As :func:`.cell.run_cell` does, whose words hold here too; ``name`` stands in tracebacks.
        An error, an interrupt or the time limit that stops the cell leaves the interpreter as it
        is. One that does not stop within ``GRACE_S`` seconds ends it, and so do a crash, the
        memory limit and output that is refused: the error then says what is lost, and the next
        cell starts another.

        Raises also TimedOut, InterpreterLost (it ended otherwise, or before this cell), and
        Conflict while it runs another cell or if the container does not run.
        """
        limits = limits or OutputLimits()
        packed = pack(given or {}, limits.variable_bytes)
        with self._taking_turns():
            started = time.monotonic()
            # What is raised in here has left the interpreter in the middle of something.
            with Interrupts() as interrupts, contextlib.ExitStack() as unless_it_lives_on:
                unless_it_lives_on.callback(self.close)
                attached = self._attached = self._attached or self._start()
                run = RunningCell(
                    attached,
                    interrupts,
                    on_event=on_event,
                    ask=ask,
                    limits=limits,
                    wanted=wanted,
                    until="exited",
                    turn=self._turn,
                    grace_s=GRACE_S,
                    timeout_s=timeout_s,
                )
                number = self._turn.number
                exit_ = run.follow(encode_cell(source, packed, wanted, name=name, number=number))
                if run.frames.status is None or run.gave_up:
                    self._judge_loss(run, exit_)
                unless_it_lives_on.pop_all()
        judge(run, exit_, "interpreter")
        if exit_.exit_code != 0:
            raise CellFailed("SystemExit", str(exit_.exit_code))
        name_ignored(run)
        duration_s = time.monotonic() - started
        return CellResult(self._container.id, duration_s, run.output.result, variables(run))

    def close(self) -> None:
        """End the interpreter; a further cell would start another."""
        attached, self._attached, self._turn = self._attached, None, Turn()
        if attached is not None:
            with attached:
                attached.kill()
                with contextlib.suppress(TimeoutError, CellblockError):
                    attached.wait(_KILLED_S)

    @contextlib.contextmanager
    def _taking_turns(self) -> Iterator[None]:
        """Let one cell run at a time, and none where those before it have left no interpreter."""
        if not self._busy.acquire(blocking=False):
            raise Conflict(f"the interpreter in container {self._container.name} is busy: wait")
        try:
            self._turn.number += 1
            if self._attached is not None and self.has_ended:
                lost = self._lost(self._attached.wait(_KILLED_S), "since the last cell")
                self.close()
                raise InterpreterLost(f"{lost}; this cell has not run: run it again, in another")
            yield
        finally:
            self._busy.release()

    def _start(self) -> Attached:
        text = RUNNER.read_bytes()
        self._turn.unsent = text
        for python in PYTHONS:
            with contextlib.suppress(CommandNotFound):
                return self._container.spawn_exec(
                    replace(
                        self._request,
                        argv=(python, "-u", "-c", _BOOTSTRAP, str(len(text)), _RUNNER_NAME),
                        channels=("in", "out", "out", "out"),
                    )
                )
        raise CommandNotFound(
            f"container {self._container.name} has neither python3 nor python on its PATH: such a "
            "cell needs Python 3.8 or newer in the container; --shell sh runs it with a shell"
        )

    def _judge_loss(self, run: RunningCell, exit_: Exit) -> NoReturn:
        """Raise why the interpreter has ended during a cell."""
        if exit_.exit_code != _KILLED_STATUS:
            exit_ = Exit(exit_.exit_code, None)  # counted since it started, in the whole container
        try:
            judge(run, exit_, "interpreter")
        except (CellblockError, KeyboardInterrupt) as error:
            error.args = (f"{error}{self._loss(exit_)}",)
            raise
        if not run.has_begun and exit_.exit_code != _KILLED_STATUS:
            raise too_old(self._container.inspect().image, exit_.exit_code)
        raise InterpreterLost(self._lost(exit_, "during the cell"))

    def _lost(self, exit_: Exit, when: str) -> str:
        how = signal_of(exit_.exit_code) or f"exit status {exit_.exit_code}"
        if exit_.exit_code == _KILLED_STATUS and isinstance(exit_.verdict, OutOfMemory):
            how = "out of memory"
        name = self._container.name
        return f"the interpreter in container {name} ended {when} ({how}){self._loss(exit_)}"

    def _loss(self, exit_: Exit) -> str:
        """Return in words what has gone with it."""
        if exit_.exit_code == _KILLED_STATUS and self._container_ended():
            return "; its container has ended, and variables are lost: start it again"
        if self._turn.number > 1:
            return "; variables of earlier cells are lost, files in the container stay"
        return ""

    def _container_ended(self) -> bool:
        try:
            self._container.wait(_CONTAINER_END_S)
        except TimeoutError:
            return False
        except CellblockError:  # it was removed as well
            return True
        return True


class Sessions:
    """The interpreters of this process: one for each container and user."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str | None], Session] = {}

    def of(self, container: Container, request: ExecRequest, *, fresh: bool = False) -> Session:
        """Return the session of a container, a new one if there is none or a ``fresh`` is wanted.

        ``request`` says for whom, and with which environment and directory it starts. Raises
        InvalidInput where it has started with others.
        """
        for key in [key for key, session in self._sessions.items() if session.has_ended]:
            if key[0] != container.id:
                self._sessions.pop(key).close()
        key = container.id, request.user
        session = self._sessions.get(key)
        if session is not None and session.is_started and not fresh:
            session.check(request)
            return session
        if session is not None:
            session.close()
        self._sessions[key] = Session(container, request)
        return self._sessions[key]

    def close(self) -> None:
        """End all interpreters."""
        while self._sessions:
            self._sessions.popitem()[1].close()


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
