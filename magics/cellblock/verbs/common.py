"""Arguments and habits that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from cellblock_engine import CellblockError, InvalidInput

from .declaration import Argument, Call
from .outcome import Acknowledged

_LARGEST_ENV_FILE = 1 << 20

JSON = Argument(("--json",), "print JSON: sizes in bytes, times in RFC 3339", "flag")
NO_TRUNC = Argument(("--no-trunc",), "show identifiers and commands in full", "flag")
QUIET = Argument(("-q", "--quiet"), "show identifiers only", "flag")
ENV = Argument(
    ("-e", "--env"),
    "set a variable; without =VALUE it is taken from your environment",
    "each",
    "NAME[=VALUE]",
)
ENV_FILE = Argument(
    ("--env-file",), "set the variables in a file, a line each; -e goes before", "each", "FILE"
)
LABEL = Argument(
    ("-l", "--label"), "a label, for you to find it by with inspect", "each", "NAME[=VALUE]"
)
WORKDIR = Argument(("-w", "--workdir"), "working directory in the container", metavar="DIR")
USER = Argument(("-u", "--user"), "user (and group) to run as", metavar="USER[:GROUP]")
PLATFORM = Argument(
    ("--platform",), "another platform than this machine's", metavar="OS/ARCH[/VARIANT]"
)
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


def agreed(call: Call, what: str, does: str) -> bool:
    """Ask whether ``what`` is to be removed. Raises InvalidInput where nobody can answer."""
    answer = call.asking.visible(
        f"{what[0].upper()}{what[1:]} will be removed. Are you sure? [y/N] ",
        otherwise=f"-f {does} without asking",
    )
    return answer.lower() in ("y", "yes")


def environment(call: Call) -> dict[str, str]:
    """Return the variables of ``--env-file`` and ``-e``; what the caller does not have is left out.

    Raises InvalidInput.
    """
    words = [line for path in getattr(call.arguments, "env_file", ()) for line in _lines(path)]
    given: dict[str, str] = {}
    for word in (*words, *call.arguments.env):
        name, equals, value = word.partition("=")
        if not name:
            raise InvalidInput(f"environment variable {word!r} has no name: write -e NAME=VALUE")
        if equals:
            given[name] = value
        elif name in call.environ:
            given[name] = call.environ[name]
    return given


def labels(call: Call) -> dict[str, str]:
    """Return the labels of ``--label``. Raises InvalidInput."""
    given: dict[str, str] = {}
    for word in call.arguments.label:
        name, _, value = word.partition("=")
        if not name:
            raise InvalidInput(f"label {word!r} has no name: write --label NAME=VALUE")
        given[name] = value
    return given


def _lines(path: str) -> list[str]:
    """Return the lines of an environment file that say something; quotes mean themselves."""
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_ENV_FILE + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read --env-file {path}: {error.strerror}") from error
    if len(content) > _LARGEST_ENV_FILE:
        raise InvalidInput(f"--env-file {path} is larger than 1 MiB")
    try:
        lines = [line.lstrip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"--env-file {path} is not UTF-8") from error
    found = [line for line in lines if line and not line.startswith("#")]
    for line in found:
        name = line.partition("=")[0]
        if not name or name != name.rstrip():
            raise InvalidInput(f"--env-file {path}: {line!r} is not NAME=VALUE")
    return found


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
