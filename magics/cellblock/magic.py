"""``%container`` and ``%%container``: a cell's words to a verb, its outcome to the notebook.

Errors that the engine raises on purpose end the cell, and nbclient's run, like any exception; the
notebook shows one line instead of a traceback.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from IPython.core.magic import Magics, line_cell_magic, magics_class

from cellblock_engine import CellblockError, Engine, InvalidInput

from .asking import FrontEnd
from .completion import Event, complete
from .notebook import note, render
from .tables import counted, plain
from .verbs import CELL_VERBS, VERBS
from .verbs.cell import cell_options
from .verbs.declaration import Call, Form, HelpRequested
from .verbs.group import Found, find, listed
from .verbs.limits import notes
from .verbs.run import ensure_image, exec_request, run_request, time_limit

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from cellblock_kernel import Sessions

    from .cells import Place
    from .progress import Shown, Work

_MAGIC = r"%{1,2}container"
_NEXT_STEPS = """\
Next:
  %%container run             on top of a cell: run it isolated, with this Python's packages
  %container run -d --name lab host    then %%container exec lab: cells that share variables
  %container run host ls /    run a command; %container ps -a shows what ran
  %container pull IMAGE       get an image; %container images lists those that are here
%container --help lists all verbs; %container run --help tells what a container may use."""


@magics_class
class ContainerMagics(Magics):
    """The magics of one shell, and the engine they use."""

    def __init__(self, shell: InteractiveShell, open_engine: Callable[[], Engine]) -> None:
        super().__init__(shell)
        self._shell = shell
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._sessions: Sessions | None = None
        self._displays: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def engine(self) -> Engine:
        """Return the engine, opened at its first use."""
        if self._engine is None:
            self._engine = self._open_engine()
        return self._engine

    def close(self) -> None:
        """End the interpreters of cells and close the engine; the next use opens it again."""
        sessions, self._sessions = self._sessions, None
        if sessions is not None:
            sessions.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    @line_cell_magic
    def container(self, line: str, cell: str | None = None) -> object:
        """Run cells and commands in isolated containers.

        %container VERB ...        do one of the verbs; %container --help lists them
        %%container run [IMAGE]    run the cell's Python in a new container (host by default)
        %%container exec NAME      run it in a running container; cells there share variables

        Lists are DataFrames: df = %container images
        """
        try:
            return self._do(_words(line), cell)
        except HelpRequested as help_:
            print(help_)
        except (CellblockError, subprocess.CalledProcessError, KeyboardInterrupt) as error:
            show_as_one_line(error)
            raise
        return None

    def _do(self, words: list[str], cell: str | None) -> object:
        if not words and cell is None:
            print(self._whereabouts())
            return None
        form: Form = "line" if cell is None else "cell"
        found = _found(words or [""], form)
        verb = found.verb
        call = self._call(verb.parse(found.rest, prog=found.prog, form=form))
        if cell is None:
            return render(verb.action(call))
        from .cells import run_cell  # noqa: PLC0415 - what only cells need

        options = cell_options(call)
        place = self._running_place(call) if verb.name == "exec" else self._new_place(call)
        run_cell(place, cell, self._shell, options)
        return None

    def _new_place(self, call: Call) -> Place:
        from .cells import new_container  # noqa: PLC0415 - as does this

        request = run_request(call)
        ensure_image(call, request.image)
        note(notes(call, request.limits))
        return new_container(call.engine, request)

    def _running_place(self, call: Call) -> Place:
        from cellblock_kernel import Sessions  # noqa: PLC0415 - as does this

        from .cells import running_container  # noqa: PLC0415 - as does this

        if self._sessions is None:
            self._sessions = Sessions()
        container, request = call.engine.container(call.arguments.container), exec_request(call)
        return running_container(
            container,
            request,
            partial(self._sessions.of, container, request, fresh=call.arguments.fresh),
            self._displays[container.id],
            name=f"<cell {self._shell.displayhook.prompt_count}>",
            timeout_s=time_limit(call),
        )

    def _call(self, arguments: argparse.Namespace) -> Call:
        return Call(self.engine(), arguments, self._progress, os.environ, FrontEnd())

    def _progress(self, work: Work | None = None) -> Shown:
        from .progress import headless, notebook, terminal  # noqa: PLC0415 - most pull nothing

        kernel = getattr(self._shell, "kernel", None)
        if kernel is None:
            return terminal(sys.stderr, work)
        # nbclient and papermill, which nobody watches and which draw no widgets, allow no stdin
        watched = kernel.get_parent("shell").get("content", {}).get("allow_stdin", False)
        return notebook(work) if watched else headless(work)

    def _whereabouts(self) -> str:
        """Return where you are, and what you could do next."""
        from . import __version__  # noqa: PLC0415 - read from the metadata only now

        info = self.engine().info()
        return (
            f"cellblock {__version__}: store {info.home}, {counted(info.images, 'image')}, "
            f"{counted(info.containers, 'container')} ({info.running} running)\n{_NEXT_STEPS}"
        )


def load(shell: InteractiveShell, open_engine: Callable[[], Engine] = Engine.open) -> None:
    """Add the magics and their completion to a shell."""
    magics = ContainerMagics(shell, open_engine)
    shell.register_magics(magics)
    shell.set_hook("complete_command", partial(_complete, magics), re_key=_MAGIC)  # type: ignore[no-untyped-call]


def unload(shell: InteractiveShell) -> None:
    """Close the engine of a shell's magics."""
    magics = shell.magics_manager.registry.get(ContainerMagics.__name__)
    if isinstance(magics, ContainerMagics):
        magics.close()


def show_as_one_line(error: BaseException) -> None:
    """Let IPython show an exception as one line, unless it brings a rendering of its own."""
    if not hasattr(error, "_render_traceback_"):
        line = ": ".join(filter(None, [type(error).__name__, plain(str(error))]))
        error.__dict__["_render_traceback_"] = lambda: [line]


def _complete(magics: ContainerMagics, _: InteractiveShell, event: Event) -> list[str]:
    return complete(event, magics.engine)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidInput(f"the line cannot be split into words: {error}") from error


def _found(words: list[str], form: Form) -> Found:
    """Return the verb of these words; raise InvalidInput, or HelpRequested for ``--help``."""
    if form == "line":
        return find(words, VERBS, prog="%container", overview=_overview)
    if words[0] not in ("-h", "--help", "help", *CELL_VERBS):
        raise InvalidInput(
            f"%%container has the verbs {' and '.join(CELL_VERBS)}, not {words[0]!r}"
        )
    return find(words, CELL_VERBS, prog="%%container", overview=_overview)


def _overview() -> str:
    return f"{listed(VERBS, '%container ')}\n%container VERB --help tells more."
