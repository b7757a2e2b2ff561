"""What only the cell form of run has: words about the cell's outputs and the notebook."""

from __future__ import annotations

import keyword
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from cellblock_engine import InvalidInput

from .declaration import Argument, Call


@dataclass(frozen=True)
class CellOptions:
    """What the words of a cell's first line say beside the container's own properties.

    ``trust_output`` shows displays as the cell sends them, scripts included. ``given`` and
    ``wanted`` name variables to copy into the cell and back; ``result_name`` is bound to the
    result. ``interpreter`` is what runs the text instead of Python.
    """

    trust_output: bool = False
    given: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    result_name: str | None = None
    interpreter: tuple[str, ...] = ()

    def interpreter_of(self, source: str) -> tuple[str, ...]:
        """Return the words of the interpreter that a cell's text is for; none for its Python.

        Raises InvalidInput where that cannot be.
        """
        words = self.interpreter
        if not words and source.startswith("#!"):
            words = _words(source.partition("\n")[0][2:])
        if words and (self.given or self.wanted):
            raise InvalidInput(
                f"--in and --out carry variables of Python, not of {words[0]}: use -e NAME=VALUE, "
                "or print the result"
            )
        return words


def cell_options(call: Call) -> CellOptions:
    """Return what the words of a cell's first line ask of the notebook. Raises InvalidInput."""
    given = call.arguments
    return CellOptions(
        trust_output=given.trust_output,
        given=_flat(vars(given)["in"]),
        wanted=_flat(given.out),
        result_name=given.result,
        interpreter=given.shell or (),
    )


def _words(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidInput(f"the interpreter {text!r} cannot be split into words") from error
    if not words:
        raise InvalidInput("the interpreter has no name: write --shell sh, or #!/bin/sh")
    return words


def _flat(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))


def _names(text: str) -> tuple[str, ...]:
    return tuple(map(_name, text.split(",")))


def _name(text: str) -> str:
    name = text.strip()
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InvalidInput(f"{text!r} is no name of a variable: write NAME or NAME,NAME")
    return name


CELL_ARGUMENTS = (
    Argument(
        ("--in",),
        "copy variables of the notebook into the cell",
        "each",
        "NAME[,NAME]",
        convert=_names,
        forms=("cell",),
    ),
    Argument(
        ("--out",),
        "copy variables of the cell back, if it ends well",
        "each",
        "NAME[,NAME]",
        convert=_names,
        forms=("cell",),
    ),
    Argument(
        ("--result",),
        "bind this name to how the cell ended: seconds, container, value",
        metavar="NAME",
        convert=_name,
        forms=("cell",),
    ),
    Argument(
        ("--shell",),
        "run the text with this instead of Python: sh, 'perl -w' (a #! line does the same)",
        metavar="COMMAND",
        convert=_words,
        forms=("cell",),
    ),
    Argument(
        ("--trust-output",),
        "show HTML as the cell sends it: its scripts act on this page as you",
        "flag",
        forms=("cell",),
    ),
)
