"""What Tab offers after ``%container``: verbs, flags, images and containers.

Candidates come from the declarations of the verbs; the engine is asked for names only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from cellblock_engine import HOST_IMAGE, CellblockError

from .verbs import CELL_VERBS, VERBS
from .verbs.declaration import Argument, Form, Verb
from .verbs.group import Group

if TYPE_CHECKING:
    from cellblock_engine import Engine


class Event(Protocol):
    """What IPython tells a ``complete_command`` hook."""

    line: str
    symbol: str
    text_until_cursor: str


def complete(event: Event, engine: Callable[[], Engine]) -> list[str]:
    """Return what may stand in place of ``event.symbol``.

    IPython's symbol begins after the last of its delimiters, such as the colon in ``python:3``;
    ours at the last space. The part between the two is not repeated.
    """
    before = event.text_until_cursor.split("\n")[-1]
    magic, *words = before.split(" ")
    form: Form = "cell" if magic.startswith("%%") else "line"
    word = words[-1] if words else ""
    kept = len(word) - len(event.symbol) if word.endswith(event.symbol) else 0
    known = CELL_VERBS if form == "cell" else VERBS
    found = _candidates([each for each in words[:-1] if each], word, form, engine, known)
    return sorted(each[kept:] for each in set(found) if each.startswith(word))


def _candidates(
    words: list[str],
    word: str,
    form: Form,
    engine: Callable[[], Engine],
    known: Mapping[str, Verb] | Mapping[str, Verb | Group],
) -> Iterable[str]:
    if not words:
        return known
    verb = known.get(words[0])
    if isinstance(verb, Group):
        return _candidates(words[1:], word, form, engine, verb.verbs)
    if verb is None:
        return ()
    arguments = verb.of_form(form)
    flags = {name: argument for argument in arguments for name in argument.names}
    previous = flags.get(words[-1])
    if previous is not None and previous.is_flag and previous.takes != "flag":
        return previous.values or _names(previous, engine)
    if word.startswith("-"):
        return ["--help", *(name for name in flags if name.startswith("--"))]
    operand = _operand(verb, words[1:], form)
    return _names(operand, engine) if operand is not None else ()


def _operand(verb: Verb, words: list[str], form: Form) -> Argument | None:
    """Return the operand that comes next after ``words``."""
    arguments = verb.of_form(form)
    valued = {
        name
        for argument in arguments
        if argument.is_flag and argument.takes != "flag"
        for name in argument.names
    }
    given = sum(
        not word.startswith("-") and before not in valued
        for before, word in zip(["", *words], words, strict=False)
    )
    operands = [argument for argument in arguments if not argument.is_flag]
    if operands and operands[-1].takes in ("any", "some"):
        given = min(given, len(operands) - 1)
    return operands[given] if given < len(operands) else None


def _names(argument: Argument, engine: Callable[[], Engine]) -> list[str]:
    """Return the images or containers there are; none if the engine cannot say."""
    try:
        match argument.subject:
            case "image":
                return _images(engine())
            case "container":
                return _containers(engine())
            case "either":
                return _containers(engine()) + _images(engine())
    except (CellblockError, OSError):
        return []
    return []


def _images(engine: Engine) -> list[str]:
    named = (reference.familiar for image in engine.images() for reference in image.references)
    return [HOST_IMAGE, *named]


def _containers(engine: Engine) -> list[str]:
    return [info.name or info.id[:12] for info in engine.containers()]
