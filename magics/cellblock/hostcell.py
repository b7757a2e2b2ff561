"""A cell that begins with ``%container``, in a notebook whose kernel is in a container.

``python -m cellblock.hostcell --container ID --within SECONDS --provenance FD --answers FD`` is run
on this machine by the kernel's gate (``cellblock_kernel/gate/operation.py`` says what the two tell
each other). It knows the verbs of :mod:`.verbs.own`, for that one container; all lines are
understood before the first is carried out.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, TypeAlias

from cellblock_engine import CellblockError, Engine, InvalidInput, Provenance
from cellblock_engine.linux.syscalls import PR_SET_PDEATHSIG, prctl  # no name of the door

from .asking import Gate, Terminal
from .documents import json_text
from .executed import Executed
from .notebook import render
from .tables import View, plain, text, utc_now
from .verbs import VERBS
from .verbs.declaration import Call, HelpRequested, Verb
from .verbs.group import find, listed
from .verbs.outcome import Listing
from .verbs.own import LAST_VERBS, OWN_VERBS, claim

if TYPE_CHECKING:
    from cellblock_kernel import Successor

    from .asking import Asking
    from .progress import Shown, Work


_PROG = "%container"
_MAGICS = (_PROG, f"%{_PROG}")
_LONGEST_CELL = 1 << 16
_MOST_LINES = 100
_PIECE = 1 << 16
_SHOWN_OF_A_LINE = 40
_GRACE_S = 3
_Act: TypeAlias = "Callable[[], dict[str, object] | None]"
_OVERVIEW = """\
usage: %container VERB [OPTIONS]

Look after the container that this notebook's kernel is in.

{verbs}

'%container VERB --help' tells more. These lines are carried out on the machine, outside the
container, and have a cell of their own.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Carry out the cell on standard input; return 0 if all of it was done."""
    parser = argparse.ArgumentParser(prog="cellblock.hostcell")
    parser.add_argument("--container", required=True)
    parser.add_argument("--within", type=int, required=True)
    parser.add_argument("--provenance", type=int, required=True)
    parser.add_argument("--answers", type=int, required=True)
    options = parser.parse_args(words)
    signal.alarm(options.within)
    signal.signal(signal.SIGINT, _interrupted)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody waits for it when the gate is gone
    cell = sys.stdin.buffer.read(_LONGEST_CELL + 1)
    with os.fdopen(options.provenance, encoding="utf-8") as file:
        told = Provenance.decode(file.read())
    with os.fdopen(options.answers, encoding="utf-8") as answers, os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what else is printed is for the server's log
        page = Page(out)
        try:
            return carry_out(cell, options.container, page, Engine.open, told, answers=answers)
        except (KeyboardInterrupt, BrokenPipeError):
            return 128 + signal.SIGINT


def carry_out(
    cell: bytes,
    container: str,
    page: Page,
    open_engine: Callable[[], Engine],
    told: Provenance,
    *,
    answers: TextIO | None = None,
) -> int:
    """Carry out a cell's lines on ``container``; return 0 if all was done.

    ``told`` is what was executed in the notebook since its last commit, ``answers`` what its user
    says to questions; without it nobody can be asked.
    """
    surface = _Surface(container, cache(open_engine), page, told, answers)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = page.stream("stdout"), page.stream("stderr")
    try:
        # Not closed: that would take the spawner from the next command, and it leaves by itself.
        for act in _plan(cell, surface):
            if shown := act():
                page.say("display_data", {"data": shown, "metadata": {}})
    except (CellblockError, OSError) as error:
        page.say("error", {"ename": type(error).__name__, "evalue": plain(str(error))})
        return 1
    finally:
        page.flush()
        sys.stdout, sys.stderr = before
    return 0


class Page:
    """What a cell shows, as lines of JSON; text is joined while it is of one stream."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._name = ""
        self._text: list[str] = []
        self._length = 0

    def stream(self, name: str) -> Stream:
        """Return what takes the text of one of its streams."""
        return Stream(partial(self._write, name))

    def say(self, kind: str, content: dict[str, Any]) -> None:
        """Write one line."""
        self.flush()
        self._put(kind, content)

    def flush(self) -> None:
        """Write what text waits."""
        if self._text:
            joined = "".join(self._text)
            self._text, self._length = [], 0
            self._put("stream", {"name": self._name, "text": joined})

    def _write(self, name: str, words: str) -> None:
        if name != self._name or self._length > _PIECE:
            self.flush()
        if words:
            self._name = name
            self._text.append(words)
            self._length += len(words)

    def _put(self, kind: str, content: dict[str, Any]) -> None:
        line = json.dumps([kind, content], ensure_ascii=False)
        self._output.write(line.encode(errors="replace") + b"\n")
        self._output.flush()


class Stream:
    """What is printed to, in the place of ``sys.stdout``."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take

    def write(self, words: str, /) -> int:
        """Take text."""
        self._take(words)
        return len(words)

    def flush(self) -> None:
        """Do nothing: the page writes when it has a piece."""


class _Surface:
    """What the lines of one cell share."""

    def __init__(
        self,
        container: str,
        open_engine: Callable[[], Engine],
        page: Page,
        told: Provenance,
        answers: TextIO | None,
    ) -> None:
        self._container, self._open_engine, self._page = container, open_engine, page
        self._executed = Executed(told, partial(page.say, "committed", {}))
        self._asking: Asking = Terminal() if answers is None else Gate(self._ask, answers)

    def call(self, arguments: argparse.Namespace) -> Call:
        """Return a call for the one container there is. Raises InvalidInput for another."""
        engine = self._open_engine()
        claim(arguments, engine.container(self._container))
        return Call(
            engine,
            arguments,
            _progress,
            os.environ,
            self._asking,
            executed=self._executed,
            succeed=self._succeed,
        )

    def _ask(self, prompt: str) -> None:
        self._page.say("ask", {"prompt": plain(prompt)})

    def _succeed(self, successor: Successor) -> None:
        self._page.say("successor", {"image": successor.image, "argv": successor.argv})


def _plan(cell: bytes, surface: _Surface) -> list[_Act]:
    """Return what is to be done, line by line. Raises InvalidInput."""
    if len(cell) > _LONGEST_CELL:
        raise InvalidInput("the cell is longer than 64 KiB: a cell of %container is some lines")
    acts: list[_Act] = []
    last = ""
    for number, line in enumerate(cell.decode(errors="replace").splitlines(), 1):
        magic, *rest = line.split(maxsplit=1) or [""]
        if not magic or magic.startswith("#"):
            continue
        if magic not in _MAGICS:
            raise InvalidInput(
                f"line {number} is not carried out: {line.strip()[:_SHOWN_OF_A_LINE]!r}; with "
                "%container a cell has %container lines and # comments only, put the rest into "
                "another cell"
            )
        if len(acts) == _MOST_LINES:
            raise InvalidInput(f"a cell of %container has at most {_MOST_LINES} lines")
        if last in LAST_VERBS:
            raise InvalidInput(f"line {number} comes after {last}: put it into a cell of its own")
        words = "".join(rest)
        acts.append(_understood(words, surface))
        last, *_ = words.split(maxsplit=1) or [""]
    return acts


def _understood(line: str, surface: _Surface) -> _Act:
    """Return what a line asks for. Raises InvalidInput."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise InvalidInput(f"the line cannot be split into words: {error}") from error
    if words and words[0] in VERBS and words[0] not in OWN_VERBS:
        raise InvalidInput(
            f"{_PROG} {words[0]} is not for a notebook whose kernel is in a container, which may "
            f"look after that container only: {', '.join(OWN_VERBS)}"
        )
    try:
        found = find(words, OWN_VERBS, prog=_PROG, overview=_overview)
        arguments = found.verb.parse(found.rest, prog=found.prog)
    except HelpRequested as help_:
        return partial(print, str(help_).rstrip())
    return partial(_do, found.verb, surface.call(arguments))


def _do(verb: Verb, call: Call) -> dict[str, object] | None:
    outcome = verb.action(call)
    if isinstance(outcome, Listing) and outcome.style != "json":
        from .frames import frame  # noqa: PLC0415 - pandas

        plain_text = text(outcome.table, View(utc_now(), wide=outcome.style == "wide"))
        return {"text/plain": plain_text, "text/html": frame(outcome.table)._repr_html_()}
    value = render(outcome)
    return {"text/plain": json_text(value)} if value is not None else None


def _overview() -> str:
    return _OVERVIEW.format(verbs=listed(OWN_VERBS))


def _progress(work: Work | None = None) -> Shown:
    from .progress import headless  # noqa: PLC0415 - these verbs pull nothing

    return headless(work)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    signal.alarm(_GRACE_S)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
