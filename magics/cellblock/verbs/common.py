"""Arguments and habits that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from cellblock_engine import CellblockError, InvalidInput

from .declaration import Argument, Call
from .outcome import Acknowledged

JSON = Argument(("--json",), "print JSON: sizes in bytes, times in RFC 3339", "flag")
NO_TRUNC = Argument(("--no-trunc",), "show identifiers and commands in full", "flag")
QUIET = Argument(("-q", "--quiet"), "show identifiers only", "flag")
ENV = Argument(
    ("-e", "--env"),
    "set a variable; without =VALUE it is taken from your environment",
    "each",
    "NAME[=VALUE]",
)
WORKDIR = Argument(("-w", "--workdir"), "working directory in the container", metavar="DIR")
USER = Argument(("-u", "--user"), "user (and group) to run as", metavar="USER[:GROUP]")
COMMAND = Argument(
    ("command",), "what to run, and its arguments", "rest", "COMMAND", forms=("line",)
)
CONTAINER = Argument(
    ("container",), "name, id or start of an id", metavar="CONTAINER", subject="container"
)
CONTAINERS = Argument(
    ("containers",), "names, ids or starts of ids", "some", "CONTAINER", subject="container"
)


def style(call: Call) -> Literal["text", "wide", "json"]:
    """Return how the call wants its table."""
    if call.arguments.json:
        return "json"
    return "wide" if call.arguments.no_trunc else "text"


def quiet(call: Call) -> bool:
    """Tell whether the call wants identifiers only. Raises InvalidInput if it wants JSON too."""
    if call.arguments.quiet and call.arguments.json:
        raise InvalidInput("-q and --json exclude each other: JSON has the identifiers")
    return bool(call.arguments.quiet)


def environment(call: Call) -> dict[str, str]:
    """Return the variables of ``-e``; one that the caller does not have is left out."""
    given: dict[str, str] = {}
    for word in call.arguments.env:
        name, equals, value = word.partition("=")
        if not name:
            raise InvalidInput(f"environment variable {word!r} has no name: write -e NAME=VALUE")
        if equals:
            given[name] = value
        elif name in call.environ:
            given[name] = call.environ[name]
    return given


def each(names: Iterable[str], act: Callable[[str], Iterable[str]]) -> Acknowledged:
    """Do something to each name and go on after failures, as Docker does for lists.

    ``act`` returns the lines that acknowledge it. A failure of a single name is raised.
    """
    names = tuple(names)
    lines: list[str] = []
    errors: list[CellblockError] = []
    for name in names:
        try:
            lines += act(name)
        except CellblockError as error:
            if len(names) == 1:
                raise
            errors.append(error)
    return Acknowledged(tuple(lines), tuple(errors))
