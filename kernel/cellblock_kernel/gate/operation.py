"""What one host cell does: a short-lived process of the user's own, beside the gate.

It reads the cell's text on its standard input and, on the descriptor of ``--provenance``, which
cells were executed since the last commit. It writes lines of JSON on its output, each
``[kind, content]``: a ``stream`` or ``display_data`` to be published, ``committed`` when a commit
has told of those cells, ``ask`` for a line of the user's, the ``successor`` that is to take the
kernel's place once it has ended, or the ``error`` that the cell ends with. An answer is a line of
JSON on the descriptor of ``--answers``, null where nobody can be asked. Status 0 says that all was
done; SIGINT ends it. It is started within the bound of :mod:`.memory`, and has no descriptor of the
gate but those three.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from .options import Successor
from .rules import Passage

COMMAND = (sys.executable, "-P", "-m", "cellblock.hostcell")
"""Above this room, so run, not imported; -P and its working directory, as nothing is to be loaded
from the notebook's folder."""
TIME_LIMIT_S = 600
_MOST_BYTES = 64 << 20
_CHUNK = 1 << 16
_MOST_WORDS = 10_000
_MOST_ANSWER = 1_000  # a line that a pipe takes at once


@dataclass(frozen=True)
class Failure:
    """Why an operation was not done: an exception's name, and its one line."""

    ename: str
    evalue: str


@dataclass(frozen=True)
class Words:
    """What an operation is told: the cell's text, and an encoded :class:`Provenance`."""

    text: str
    provenance: str


class Operation:
    """A process under way, until it has ended or is ended.

    ``show`` gets what is to be published, ``committed`` is called when there is a commit, ``ask``
    gets a prompt, which :meth:`answer` is for, ``end`` at last None or a failure. All are called on
    the relay's thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        words: Words,
        passage: Passage,
        *,
        show: Callable[[str, dict[str, Any]], None],
        committed: Callable[[], None],
        ask: Callable[[str], None],
        end: Callable[[Failure | None], None],
    ) -> None:
        """Start it. Raises OSError."""
        self._passage, self._show, self._end = passage, show, end
        self._committed, self._ask = committed, ask
        self.successor: Successor | None = None
        """What is to take the kernel's place, if all was done."""
        self._line = bytearray()
        self._read_bytes = 0
        self._failure: Failure | None = None
        with ExitStack() as given:
            stdin, told = (_file(each, given) for each in (words.text, words.provenance))
            answered, self._answers = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            given.callback(os.close, answered)
            os.set_blocking(answered, True)
            failed = given.enter_context(ExitStack())
            failed.callback(os.close, self._answers)
            self._process = subprocess.Popen(  # closes all other descriptors: sockets, the rooms
                (*command, f"--answers={answered}", f"--provenance={told}"),
                stdin=stdin,
                stdout=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
                pass_fds=(told, answered),
            )
            failed.pop_all()
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            os.close(self._answers)
            raise
        passage.watch(self._output, self._on_output)
        passage.watch(self._pidfd, self._on_end)

    def answer(self, words: str | None) -> None:
        """Tell it what the user has answered; None where nobody can be asked."""
        line = json.dumps(words[:_MOST_ANSWER] if words is not None else None) + "\n"
        with suppress(BlockingIOError, BrokenPipeError):  # one that asks reads
            os.write(self._answers, line.encode())

    def interrupt(self) -> None:
        """End it as an interrupt ends a cell."""
        if self._failure is None:
            self._failure = Failure("KeyboardInterrupt", "")
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, and tell nobody."""
        self._process.kill()
        self._close()

    def _on_output(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Take a piece of what it writes; return whether there was any."""
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return False
        self._read_bytes += len(data)
        if self._read_bytes > _MOST_BYTES:
            self._failure = Failure("OutputRefused", "the cell says more than 64 MiB: ask for less")
            self._process.kill()
            data = b""
        if not data:
            self._passage.unwatch(self._output)
            return False
        self._line += data
        if b"\n" in data:
            *lines, self._line = self._line.split(b"\n")
            for line in lines:
                self._take(line)
        return True

    def _take(self, line: bytearray) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return  # its status tells the rest
        match said:
            case ["stream" | "display_data" as kind, dict(content)]:
                self._show(kind, content)
            case ["committed", dict()]:
                self._committed()
            case ["ask", {"prompt": str(prompt)}]:
                self._ask(prompt)
            case ["successor", {"image": str(image), "argv": [*argv]}]:
                self.successor = Successor(image, tuple(map(str, argv)))
            case ["error", {"ename": str(name), "evalue": str(words)}] if self._failure is None:
                self._failure = Failure(name, words[:_MOST_WORDS])

    def _on_end(self) -> None:
        while self._read():
            pass
        self._close()
        status = self._process.returncode
        if status == 0:
            self._end(None)
        elif self._failure is not None:
            self._end(self._failure)
        elif status == -signal.SIGALRM:
            self._end(Failure("TimedOut", f"the cell took longer than {TIME_LIMIT_S} s"))
        else:
            line = f"the cell's process ended with status {status}: the server's log may tell more"
            self._end(Failure("HostCellFailed", line))

    def _close(self) -> None:
        """Give everything back; the process has ended, or was killed."""
        for fd in (self._output, self._pidfd):
            self._passage.unwatch(fd)
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._pidfd)
        os.close(self._answers)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)


def _file(text: str, given: ExitStack) -> int:
    """Return a descriptor of a file with this text, at its beginning. Raises OSError."""
    fd = os.memfd_create("cell")  # a pipe may take less at once
    given.callback(os.close, fd)
    with open(fd, "wb", closefd=False) as file:
        file.write(text.encode(errors="replace"))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
