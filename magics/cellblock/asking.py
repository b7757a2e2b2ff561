"""Asking the user for what must not be written down: at a terminal, or through a front end.

What is typed is returned to the verb and kept nowhere: not in the notebook, not in the history.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable
from typing import BinaryIO, Protocol, TextIO

from cellblock_engine import InvalidInput

_MAX_CHARACTERS = 64 * 2**10


class Asking(Protocol):
    """The ways to get words from the user.

    Each raises InvalidInput where nobody can answer; ``otherwise`` is what to do then.
    """

    def visible(self, prompt: str, *, otherwise: str) -> str:
        """Return a line that may be seen while it is typed."""

    def secret(self, prompt: str, *, otherwise: str) -> str:
        """Return a line that is not shown."""

    def piped(self) -> str:
        """Return what a program or file has put into stdin, without its last line end."""

    def reader(self) -> BinaryIO:
        """Return stdin, for bytes that are piped in; never a terminal."""

    def writer(self) -> BinaryIO:
        """Return stdout, for bytes that are piped on; never a terminal."""


class Terminal:
    """Whoever sits at the terminal that the command was started from."""

    def visible(self, prompt: str, *, otherwise: str) -> str:
        """Prompt on stderr, which is not piped on."""
        self._need_terminal(otherwise)
        print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline(_MAX_CHARACTERS)
        if not line:
            raise InvalidInput("nothing was answered")
        return line.strip()

    def secret(self, prompt: str, *, otherwise: str) -> str:
        """Ask with the terminal's echo switched off."""
        self._need_terminal(otherwise)
        try:
            return getpass.getpass(prompt)
        except EOFError:
            raise InvalidInput("nothing was answered") from None

    def piped(self) -> str:
        """Read stdin to its end."""
        words = "" if sys.stdin is None else sys.stdin.read(_MAX_CHARACTERS)
        return words.removesuffix("\n").removesuffix("\r")

    def reader(self) -> BinaryIO:
        """Return stdin as bytes."""
        if sys.stdin is None or sys.stdin.isatty():
            raise InvalidInput("there is nothing on stdin: name a file, or pipe one in")
        return sys.stdin.buffer

    def writer(self) -> BinaryIO:
        """Return stdout as bytes."""
        if sys.stdout is None or sys.stdout.isatty():
            raise InvalidInput("stdout is a terminal: name a file with -o, or pipe it on")
        return sys.stdout.buffer

    def _need_terminal(self, otherwise: str) -> None:
        if sys.stdin is None or not sys.stdin.isatty():
            raise InvalidInput(f"nobody can be asked: stdin is not a terminal; {otherwise}")


class FrontEnd:
    """Whoever looks at the notebook: the kernel passes on what ``input`` and ``getpass`` ask."""

    def visible(self, prompt: str, *, otherwise: str) -> str:
        """Ask with the front end's input field."""
        try:
            return input(prompt).strip()
        except NotImplementedError as error:  # IPython's StdinNotImplementedError is one
            raise _nobody(otherwise) from error

    def secret(self, prompt: str, *, otherwise: str) -> str:
        """Ask with the front end's password field."""
        try:
            return getpass.getpass(prompt)
        except NotImplementedError as error:
            raise _nobody(otherwise) from error

    def piped(self) -> str:
        """Refuse: a notebook has no stdin."""
        raise InvalidInput("a notebook has no stdin: leave --password-stdin out and you are asked")

    def reader(self) -> BinaryIO:
        """Refuse likewise."""
        raise InvalidInput("a notebook has no stdin: name a file")

    def writer(self) -> BinaryIO:
        """Refuse: what a notebook shows is text."""
        raise InvalidInput("a notebook has no stdout for bytes: name a file with -o")


class Gate(FrontEnd):
    """Whoever looks at a notebook whose kernel is in a container, asked by that kernel's gate."""

    def __init__(self, ask: Callable[[str], None], answers: TextIO) -> None:
        """Answers are lines of JSON, null where the front end has no input."""
        self._ask, self._answers = ask, answers

    def visible(self, prompt: str, *, otherwise: str) -> str:
        """Ask with the front end's input field."""
        self._ask(prompt)
        line = self._answers.readline(_MAX_CHARACTERS)
        answer = json.loads(line) if line else None
        if not isinstance(answer, str):
            raise _nobody(otherwise)
        return answer.strip()

    def secret(self, prompt: str, *, otherwise: str) -> str:  # noqa: ARG002 - its base's
        """Refuse: nothing about one's own container is secret."""
        raise _nobody(otherwise)


def _nobody(otherwise: str) -> InvalidInput:
    return InvalidInput(f"nobody can be asked: this front end has no input; {otherwise}")
