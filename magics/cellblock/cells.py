"""A cell of a notebook, run in a container and shown as its outputs come.

What comes from inside is not trusted: text goes to the cell's streams, and what is displayed is
published as data that was reduced (``outputs/bundles.py``). Nothing is handed to IPython's display
classes, which read files and run scripts for whoever names them.
"""

from __future__ import annotations

import getpass
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TextIO

from cellblock_engine import InvalidInput
from cellblock_kernel import (
    CellResult,
    Clear,
    Display,
    Error,
    Event,
    InputRequest,
    Losses,
    Result,
    Stream,
    reduce_bundle,
    reduce_metadata,
    run_script,
    run_script_in,
    trusted_bundle,
)
from cellblock_kernel import run_cell as run_in_container

from .verbs.cell import CellOptions

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from cellblock_engine import Container, Engine, ExecRequest, RunRequest
    from cellblock_kernel import Session

_MAX_NAMES = 10_000
_REMEDY = "--trust-output shows all that the cell sends"


@dataclass(frozen=True)
class Place:
    """Where a cell runs: what runs a text of Python there, and one for another interpreter.

    ``python`` is called as ``run_cell`` of the kernel room is from the source on, ``script`` as
    ``run_script`` from the interpreter on. ``displays`` are the displays of cells there that can
    be updated: their names inside, and here.
    """

    python: Callable[..., CellResult]
    script: Callable[..., CellResult]
    displays: dict[str, str] = field(default_factory=dict)


def new_container(engine: Engine, request: RunRequest) -> Place:
    """Return a container of the cell's own."""
    return Place(partial(run_in_container, engine, request), partial(run_script, engine, request))


def running_container(
    container: Container,
    request: ExecRequest,
    session: Callable[[], Session],
    displays: dict[str, str],
    *,
    name: str,
    timeout_s: float | None,
) -> Place:
    """Return a running container: Python cells share the session and displays, others nothing.

    ``name`` is the cell's, in tracebacks of this and later cells.
    """
    return Place(
        lambda source, on_event, **options: session().run(
            source, on_event, name=name, timeout_s=timeout_s, **options
        ),
        partial(run_script_in, container, request, timeout_s=timeout_s),
        displays,
    )


def run_cell(
    place: Place, source: str, shell: InteractiveShell, options: CellOptions | None = None
) -> CellResult:
    """Run a cell's text in its place, show its outputs in order, return how it ended.

    The text is Python's, or that of the interpreter which the options or its first line name.
    Raises what :func:`cellblock_kernel.run_cell` raises; the traceback of a cell that failed has
    been shown by then, so that the exception is one line. Variables that ``options`` wants of the
    cell are bound in the shell's namespace if it ended well, all or none. If it showed a value,
    ``_`` and ``Out[n]`` are the result that ``--result`` binds: data, never a live object.
    """
    options = options or CellOptions()
    interpreter = options.interpreter_of(source)
    given = _given(shell, options.given)
    screen = _Screen(shell, options, place.displays)
    try:
        if interpreter:
            result = place.script(interpreter, source, screen.show)
        else:
            result = place.python(
                source, screen.show, given=given, wanted=options.wanted, ask=screen.ask
            )
    finally:
        screen.finish()
    shell.user_ns.update(result.variables)
    if options.result_name is not None:
        shell.user_ns[options.result_name] = result
    if result.result is not None:
        # As IPython keeps what a cell showed; the value itself stays where it was made.
        shell.displayhook.update_user_ns(result)  # type: ignore[no-untyped-call]
    return result


def _given(shell: InteractiveShell, names: Iterable[str]) -> dict[str, object]:
    """Return variables of the notebook by name. Raises InvalidInput."""
    missing = [name for name in names if name not in shell.user_ns]
    if missing:
        raise InvalidInput(
            f"--in names {', '.join(missing)}, which this notebook has not defined: run the cell "
            "that does"
        )
    return {name: shell.user_ns[name] for name in names}


class _Screen:
    """The outputs of the notebook's current cell."""

    def __init__(
        self, shell: InteractiveShell, options: CellOptions, names: dict[str, str]
    ) -> None:
        self._shell = shell
        self._options = options
        self._losses = Losses()
        self._names = names
        self._last: TextIO | None = None

    def show(self, event: Event) -> None:
        """Show one event behind those before it."""
        match event:
            case Stream(name, text):
                self._write(sys.stdout if name == "stdout" else sys.stderr, text)
            case Display(display_id=str()):
                self._publish_updatable(event)
            case Display(bundle, metadata) | Result(bundle, metadata):
                self._publish(bundle, metadata)
            case Clear(wait):
                self.flush()
                self._shell.display_pub.clear_output(wait=wait)  # type: ignore[no-untyped-call]
            case Error(traceback=traceback):
                self._write(sys.stderr, traceback)

    def ask(self, request: InputRequest) -> str:
        """Ask for a line as the notebook's own cells do; ipykernel stands behind both names.

        Raises NotImplementedError (StdinNotImplementedError) where the front end cannot be asked.
        """
        self.flush()
        return getpass.getpass(request.prompt) if request.secret else input(request.prompt)

    def finish(self) -> None:
        """Say what could not be shown, and let all be seen before what follows."""
        for line in self._losses.lines(_REMEDY):
            self._write(sys.stderr, line)
        self.flush()

    def flush(self) -> None:
        """Let the text written last be seen before what follows."""
        if self._last is not None:
            self._last.flush()

    def _write(self, stream: TextIO, text: str) -> None:
        if stream is not self._last:
            self.flush()
            self._last = stream
        stream.write(text)
        if not text.endswith("\n") or stream.isatty():
            stream.flush()

    def _publish_updatable(self, event: Display) -> None:
        """Publish under a name of our own: the cell's might be that of another cell's display."""
        if event.update and event.display_id not in self._names:
            return
        if len(self._names) < _MAX_NAMES:
            self._names.setdefault(str(event.display_id), uuid.uuid4().hex)
        name = self._names.get(str(event.display_id))
        transient = None if name is None else {"display_id": name}
        self._publish(event.bundle, event.metadata, transient=transient, update=event.update)

    def _publish(
        self,
        bundle: Mapping[str, str | bytes],
        metadata: Mapping[str, object],
        *,
        transient: Mapping[str, str] | None = None,
        update: bool = False,
    ) -> None:
        self.flush()
        if self._options.trust_output:
            shown, about = trusted_bundle(bundle), dict(metadata)
        else:
            shown = reduce_bundle(bundle)
            about = reduce_metadata(metadata, shown.data)
        self._losses.add(shown.lost)
        self._shell.display_pub.publish(
            data=shown.data, metadata=about, transient=transient, update=update
        )
