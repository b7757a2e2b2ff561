"""The ``cellblock`` command: words to a verb, its outcome to the terminal, errors to one line.

Exit statuses are Docker's: the workload's own, 125 (of any verb) for what the engine could not do
or the words do not say, 126 and 127 for commands that cannot be executed or found; 124 when the
time was up. Help needs no engine and stays cheap.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cellblock_engine import CellblockError

from .verbosity import Verbosity, tell
from .verbs import VERBS
from .verbs.declaration import Call, HelpRequested
from .verbs.group import find, listed

if TYPE_CHECKING:
    from cellblock_engine import Engine

    from .progress import Shown, Work

_PROG = "cellblock"
_SIGINT_STATUS = 128 + 2
_SIGPIPE_STATUS = 128 + 13
_OVERVIEW = """\
usage: cellblock [-D | --log-level LEVEL] VERB [OPTIONS] ...

Run commands in isolated Linux containers, without a daemon.

{verbs}

'cellblock VERB --help' tells more, and -D (--debug) what is done meanwhile. In a notebook:
%load_ext cellblock, then %container VERB.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words (those of the process by default) say; return the exit status."""
    return command(sys.argv[1:] if argv is None else argv, _open_engine)


def command(words: Sequence[str], open_engine: Callable[[], Engine]) -> int:
    """Do what ``words`` say with the engine that ``open_engine`` gives; return the exit status."""
    try:
        status = _do(words, open_engine)
        if sys.stdout is not None:  # None: it was closed before we started
            sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return _SIGPIPE_STATUS
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return _SIGINT_STATUS
    except (CellblockError, OSError) as error:
        from .terminal import complain  # noqa: PLC0415 - help does without it

        status = complain(error)
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:  # that was it
            _silence_stdout()
    return status


def overview() -> str:
    """Return the help of the command as a whole."""
    return _OVERVIEW.format(verbs=listed(VERBS))


def _do(words: Sequence[str], open_engine: Callable[[], Engine]) -> int:
    verbosity = Verbosity.parse(words, os.environ)
    if verbosity.level is not None:
        tell(verbosity.level)
    words = verbosity.rest
    if words[:1] == ("--version",):
        words = ("version", *words[1:])
    try:
        found = find(words, VERBS, prog=_PROG, overview=overview)
        arguments = found.verb.parse(found.rest, prog=found.prog)
    except HelpRequested as help_:
        print(help_, end="")
        return 0
    from .asking import Terminal  # noqa: PLC0415 - help does without it
    from .terminal import render  # noqa: PLC0415 - help does without it

    # Not closed: that would take the spawner from the next command, and it leaves by itself.
    call = Call(open_engine(), arguments, _progress, os.environ, Terminal())
    return render(found.verb.action(call))


def _open_engine() -> Engine:
    from cellblock_engine import Engine  # noqa: PLC0415 - help does without it

    return Engine.open()


def _progress(work: Work | None = None) -> Shown:
    from .progress import terminal  # noqa: PLC0415 - most verbs pull nothing

    return terminal(sys.stderr, work)


def _silence_stdout() -> None:
    """Let the interpreter's last flush of stdout, which nobody reads, succeed."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
