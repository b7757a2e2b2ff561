"""What a verb is: one declaration, from which command line, magics, help and completion follow.

Parsing is argparse's. This module makes the parser from a :class:`Verb` and turns what argparse
would print or exit with into exceptions, because a notebook must neither exit nor see usage texts
on stderr. It knows no verb and no surface.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from cellblock_engine import InvalidInput

if TYPE_CHECKING:
    from cellblock_engine import Engine
    from cellblock_kernel import Successor

    from ..asking import Asking
    from ..executed import Executed
    from ..progress import Shown, Work
    from .outcome import Outcome

Form = Literal["line", "cell"]
Subject = Literal["image", "container", "either", "value"]
Takes = Literal["flag", "one", "each", "pairs", "optional", "any", "some", "rest"]

_ARITY: Mapping[Takes, dict[str, Any]] = {
    "flag": {"action": "store_true"},
    "one": {},
    "each": {"action": "append", "default": []},
    "pairs": {"action": "append", "nargs": 2, "default": []},
    "optional": {"nargs": "?"},
    "any": {"nargs": "*"},
    "some": {"nargs": "+"},
    "rest": {"nargs": argparse.REMAINDER},
}


@dataclass(frozen=True)
class Argument:
    """A flag (``names`` start with a dash) or an operand (one name without) of a verb.

    ``takes`` says what it takes: nothing, one value, one value or two each time it is written, an
    optional operand, any number of operands, at least one, or all that is left. ``subject`` and
    ``values`` say what completion offers. ``forms`` are the forms of the verb that have it.
    """

    names: tuple[str, ...]
    summary: str
    takes: Takes = "one"
    metavar: str | tuple[str, ...] | None = None
    convert: Callable[[str], object] = str
    default: object = None
    subject: Subject = "value"
    values: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ("line", "cell")

    @property
    def is_flag(self) -> bool:
        """Tell a flag from an operand."""
        return self.names[0].startswith("-")


class OpenProgress(Protocol):
    """Opens a display of some work, by default of a pull."""

    def __call__(self, work: Work | None = None) -> Shown:
        """Return the display."""


@dataclass(frozen=True)
class Call:
    """One use of a verb: everything its action may look at.

    ``progress`` opens a display of long work on the surface the call came from; ``environ`` is the
    environment of the caller; ``asking`` gets words from the user; ``executed`` is what was
    executed in the notebook that the call came from, where that is recorded; ``succeed`` lets a
    kernel take the place of that notebook's own, once the call is over.
    """

    engine: Engine
    arguments: argparse.Namespace
    progress: OpenProgress
    environ: Mapping[str, str]
    asking: Asking
    executed: Executed | None = None
    succeed: Callable[[Successor], None] | None = None


@dataclass(frozen=True)
class Verb:
    """A verb. ``action`` does it and returns what there is to see; it never prints."""

    name: str
    summary: str
    arguments: tuple[Argument, ...]
    action: Callable[[Call], Outcome]

    def of_form(self, form: Form) -> tuple[Argument, ...]:
        """Return the arguments that this form of the verb has, the flags first."""
        having = [argument for argument in self.arguments if form in argument.forms]
        return tuple(sorted(having, key=lambda argument: not argument.is_flag))

    def parse(self, words: Sequence[str], *, prog: str, form: Form = "line") -> argparse.Namespace:
        """Return the arguments in ``words``; ``prog`` is how the user calls the verb.

        Raises InvalidInput with one line, and HelpRequested with the text to show.
        """
        arguments = self.of_form(form)
        parser = _Parser(prog=prog, usage=_usage(prog, arguments), description=self.summary)
        for argument in arguments:
            parser.take(argument)
        helps = [name for name in ("-h", "--help") if name not in parser.known]
        parser.add_argument(
            *helps, action=_Help, nargs=0, default=argparse.SUPPRESS, help="show this help"
        )
        found, strangers = parser.parse_known_args(words)
        if strangers:
            parser.refuse(strangers[0])
        return found


class HelpRequested(Exception):
    """The words ask for help; the message is the help text."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean ...?"`` where a known word is close, else an empty string."""
    import difflib  # noqa: PLC0415 - only for mistakes

    known = sorted(known)
    # an abbreviation means what it begins, though another word may be closer
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    close = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


class _Help(argparse.Action):
    """Raise at once, so that help needs no operands."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise HelpRequested(parser.format_help())


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing and exiting."""

    def __init__(self, *, prog: str, usage: str, description: str) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34),
        )
        self.known: list[str] = []

    def take(self, argument: Argument) -> None:
        """Add what a declaration says; operands keep the order of the declaration."""
        options = dict(_ARITY[argument.takes])
        if argument.takes != "flag":
            options |= {"type": _one_line(argument.convert), "metavar": argument.metavar}
        if argument.default is not None:
            options["default"] = argument.default
        action = self.add_argument(*argument.names, help=argument.summary, **options)
        if argument.takes == "rest":
            action.required = False  # argparse would name it among what is missing
        self.known += argument.names if argument.is_flag else ()

    def error(self, message: str) -> NoReturn:
        # argparse's words for -it and --rm=no
        message = message.replace(": ignored explicit argument", " takes no value, it was given")
        raise InvalidInput(f"{message}; see {self.prog} --help")

    def refuse(self, stranger: str) -> NoReturn:
        """Name the first word that has no place."""
        word = stranger.partition("=")[0]
        if word.startswith("-"):
            self.error(f"unknown flag {word}{did_you_mean(word, self.known)}")
        self.error(f"unexpected argument {stranger!r}")


def _one_line(convert: Callable[[str], object]) -> Callable[[str], object]:
    """Let argparse pass on the message of InvalidInput, instead of one of its own."""

    def converted(text: str) -> object:
        try:
            return convert(text)
        except InvalidInput as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return converted


def _usage(prog: str, arguments: Iterable[Argument]) -> str:
    more = "[{} ...]"
    shapes = {"one": "{}", "optional": "[{}]", "any": more, "some": "{0} [{0} ...]", "rest": more}
    operands = [
        shapes[argument.takes].format(argument.metavar or argument.names[0].upper())
        for argument in arguments
        if not argument.is_flag
    ]
    return " ".join([prog.replace("%", "%%"), "[OPTIONS]", *operands])
