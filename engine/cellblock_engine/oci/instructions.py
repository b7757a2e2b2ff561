"""Instructions of a Dockerfile that change an image's config, and what they make of it; no I/O.

Those that ``docker commit --change`` takes, but HEALTHCHECK (Docker's Dockerfile reference).
:func:`parse_instruction` reads one, :func:`configured` applies them to the member ``config`` of an
image's document: an image that others made, so nothing in it is trusted.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import InvalidInput
from ..signals import parse_signal
from .jsonobject import JsonObject
from .shellwords import Expansion, split_words

_LONGEST_BYTES = 2**16
_MOST = 1000
_DEFAULT_SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.ASCII | re.IGNORECASE)
_LARGEST_PORT = 2**16 - 1

Line = str
"""A command in the shell form: what the image's shell is to run."""


@dataclass(frozen=True)
class Cmd:
    """CMD: the words of a command, or a line for the shell."""

    command: tuple[str, ...] | Line


@dataclass(frozen=True)
class Entrypoint:
    """ENTRYPOINT: likewise. The image's CMD goes, unless one was given before."""

    command: tuple[str, ...] | Line


@dataclass(frozen=True)
class Env:
    """ENV: names and values, in which variables are not yet replaced."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Label:
    """LABEL: likewise."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Expose:
    """EXPOSE: ports, as ``80``, ``53/udp`` and ``8000-8010``."""

    ports: tuple[str, ...]


@dataclass(frozen=True)
class Volume:
    """VOLUME: paths in the container."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class Workdir:
    """WORKDIR: a directory, relative to the one before."""

    path: str


@dataclass(frozen=True)
class User:
    """USER: who runs the command, ``user[:group]``."""

    user: str


@dataclass(frozen=True)
class StopSignal:
    """STOPSIGNAL: what asks the command to end."""

    signal: str


@dataclass(frozen=True)
class OnBuild:
    """ONBUILD: an instruction for whoever builds on the image."""

    trigger: str


Instruction = (
    Cmd | Entrypoint | Env | Label | Expose | Volume | Workdir | User | StopSignal | OnBuild
)


def parse_changes(texts: Sequence[str]) -> tuple[Instruction, ...]:
    """Return the instructions of ``--change``, one of each text. Raises InvalidInput."""
    if len(texts) > _MOST:
        raise InvalidInput(f"{len(texts)} changes are more than the {_MOST} allowed")
    return tuple(map(parse_instruction, texts))


def parse_instruction(text: str) -> Instruction:
    """Return the instruction that is written in one line. Raises InvalidInput."""
    text = text.strip()
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"change {text[:60]!r} is not valid: it is not UTF-8") from None
    if size_bytes > _LONGEST_BYTES:
        raise InvalidInput(f"change {text[:60]!r}... is longer than 64 KiB")
    if any(character in text for character in "\0\r\n"):
        raise _wrong(text, "it has several lines; give each instruction a --change of its own")
    name, *rest = text.split(maxsplit=1) or [""]
    parse = _PARSERS.get(name.upper())
    if parse is None:
        raise _wrong(text, f"{name[:40]!r} is none of {', '.join(_PARSERS)}")
    if not rest:
        raise _wrong(text, f"nothing is said after {name.upper()}")
    if rest[0].startswith("--"):
        raise _wrong(text, f"{name.upper()} takes no flags")
    try:
        return parse(rest[0])
    except InvalidInput as error:
        raise _wrong(text, str(error)) from error


def configured(
    config: Mapping[str, object], instructions: Iterable[Instruction]
) -> dict[str, object]:
    """Return the member ``config`` of an image's document with the instructions carried out.

    Raises InvalidInput for what the image's own values make of them, InvalidAnswer for a config
    that is none.
    """
    changing = _Changing(config)
    for instruction in instructions:
        changing.take(instruction)
    return changing.config


class _Changing:
    """A config between two instructions; variables in one have the values from before it."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self.config = dict(config)
        self._known = JsonObject(config, "the image's config")
        self._env = dict(entry.partition("=")[::2] for entry in self._known.texts("Env"))
        self._expansion = Expansion(self._env)
        self._has_cmd = False

    def take(self, instruction: Instruction) -> None:
        """Carry out one instruction."""
        word = self._expansion.word
        match instruction:
            case Cmd(command):
                self.config["Cmd"] = self._words(command)
                self._has_cmd = True
            case Entrypoint(command):
                self.config["Entrypoint"] = self._words(command)
                if not self._has_cmd:
                    self.config.pop("Cmd", None)
            case Env(pairs):
                self._env.update([_named("ENV", word(name), word(text)) for name, text in pairs])
                self.config["Env"] = [f"{name}={value}" for name, value in self._env.items()]
            case Label(pairs):
                labels = self._now().mapping("Labels")
                labels.update([_named("LABEL", word(name), word(text)) for name, text in pairs])
                self.config["Labels"] = labels
            case Expose(ports):
                found = [each for text in ports for each in word(text).split()]
                self._add("ExposedPorts", [port for each in found for port in _ports(each)])
            case Volume(paths):
                self._add("Volumes", [_some("VOLUME", word(path).strip()) for path in paths])
            case Workdir(path):
                self.config["WorkingDir"] = self._below(_some("WORKDIR", word(path)))
            case User(user):
                self.config["User"] = _some("USER", word(user))
            case StopSignal(signal):
                parse_signal(value := word(signal))
                self.config["StopSignal"] = value
            case OnBuild(trigger):
                given_before = self._now().texts("OnBuild")
                self.config["OnBuild"] = [*given_before, trigger]

    def _words(self, command: tuple[str, ...] | Line) -> list[str]:
        if isinstance(command, Line):
            return [*(self._known.texts("Shell") or _DEFAULT_SHELL), command]
        return list(command)

    def _below(self, path: str) -> str:
        now = self._now().text("WorkingDir") or "/"
        return "/" + posixpath.normpath(posixpath.join("/", now, path)).lstrip("/")

    def _add(self, member: str, names: Iterable[str]) -> None:
        known = dict.fromkeys(self._now().names(member))
        self.config[member] = {name: {} for name in known | dict.fromkeys(names)}

    def _now(self) -> JsonObject:
        return JsonObject(self.config, "the image's config")


def _command(text: str) -> tuple[str, ...] | Line:
    """Return the words of a JSON array, or what is none as a line."""
    words = _array(text)
    return text if words is None else words


def _array(text: str) -> tuple[str, ...] | None:
    """Return the strings of a JSON array, None for what is no JSON, as Docker has it."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(word, str) for word in words):
        raise InvalidInput("an array of it has other things than strings")
    for word in words:
        if "\0" in word or any("\ud800" <= character <= "\udfff" for character in word):
            raise InvalidInput("a string of it has a character that no program can be given")
    return tuple(words)


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Return what ``NAME=VALUE ...`` says, or the old ``NAME VALUE``."""
    words = split_words(text)
    if "=" not in words[0]:
        name, *rest = text.split(maxsplit=1)
        if not rest:
            raise InvalidInput(f"{name[:40]!r} has no value; write NAME=VALUE")
        return ((name, rest[0]),)
    for word in words:
        if "=" not in word:
            raise InvalidInput(f"{word[:40]!r} is not NAME=VALUE; use quotes around blanks")
    return tuple((name, value) for name, _, value in (word.partition("=") for word in words))


def _volumes(text: str) -> tuple[str, ...]:
    words = _array(text)
    return tuple(text.split()) if words is None else words


def _one(text: str) -> str:
    if len(words := split_words(text)) > 1:
        raise InvalidInput(f"it takes one word, not {len(words)}")
    return text


def _trigger(text: str) -> str:
    name = text.split(maxsplit=1)[0].upper()
    if name in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidInput(f"{name} cannot be triggered")
    return text


def _ports(text: str) -> list[str]:
    found = _PORT.fullmatch(text)
    if found is None:
        raise InvalidInput(f"EXPOSE {text[:40]!r} is no port: write 80, 53/udp or 8000-8010")
    first, last = int(found[1]), int(found[2] or found[1])
    if not first <= last <= _LARGEST_PORT:
        raise InvalidInput(f"EXPOSE {text[:40]!r} is no range of ports up to {_LARGEST_PORT}")
    protocol = (found[3] or "tcp").lower()
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _named(what: str, name: str, value: str) -> tuple[str, str]:
    if not name or (what == "ENV" and "=" in name):
        raise InvalidInput(f"{what} has a name that is none: {name[:40]!r}")
    return name, value


def _some(what: str, value: str) -> str:
    if not value:
        raise InvalidInput(f"{what} is empty once its variables are replaced: the image has none")
    return value


def _wrong(text: str, why: str) -> InvalidInput:
    return InvalidInput(f"change {text[:60]!r} is not valid: {why}")


_PARSERS: Mapping[str, Callable[[str], Instruction]] = {
    "CMD": lambda text: Cmd(_command(text)),
    "ENTRYPOINT": lambda text: Entrypoint(_command(text)),
    "ENV": lambda text: Env(_pairs(text)),
    "EXPOSE": lambda text: Expose(tuple(text.split())),
    "LABEL": lambda text: Label(_pairs(text)),
    "ONBUILD": lambda text: OnBuild(_trigger(text)),
    "STOPSIGNAL": lambda text: StopSignal(_one(text)),
    "USER": lambda text: User(_one(text)),
    "VOLUME": lambda text: Volume(_volumes(text)),
    "WORKDIR": Workdir,
}
