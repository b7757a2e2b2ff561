"""Patterns of paths, as in a .dockerignore: ``*``, ``?``, ``[a-z]``, ``**`` and ``!``; no I/O.

Paths are those of a container, from its root, and its own making: each is matched in time linear
in its length, and a pattern that was matched costs no second attempt. So what a star stands for is
found once and never taken back (an atomic group); the leftmost place will do for all but the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from .errors import InvalidInput

_MOST = 10_000
_LONGEST = 4096
_END = r"(?=/|\Z)"
_ANY_DEEP = "**"


class Patterns:
    """Patterns in a row: the last that matches a path, or a directory that it is in, decides."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Compile them once. Raises InvalidInput."""
        if len(texts) > _MOST:
            raise InvalidInput(f"{len(texts)} patterns are more than the {_MOST} allowed")
        parsed = [_parsed(text) for text in texts]
        runs: list[tuple[bool, Callable[[str], bool]]] = [
            (excludes, _Run([parts for _, parts in run]).matches)
            for excludes, run in groupby(parsed, key=itemgetter(0))
        ]
        self._runs = runs[::-1]
        self.has_exceptions = any(not excludes for excludes, _ in parsed)

    def match(self, path: bytes) -> bool:
        """Tell whether a path, without a slash at its beginning, is meant."""
        text = path.decode("utf-8", "surrogateescape")
        return next((excludes for excludes, matches in self._runs if matches(text)), False)


class _Run:
    """Patterns of one sign: names are looked up, only the others are tried one by one."""

    def __init__(self, patterns: Iterable[tuple[str, ...]]) -> None:
        self._names: set[str] = set()
        self._deepest = 0
        wild = []
        for parts in patterns:
            names = [_literal(part) for part in parts]
            if None in names:
                wild.append(_expression(parts))
            else:
                self._names.add("/".join(map(str, names)))
                self._deepest = max(self._deepest, len(parts))
        self._wild = re.compile("|".join(wild), re.DOTALL) if wild else None

    def matches(self, path: str) -> bool:
        end = 0
        for _ in range(self._deepest):
            end = path.find("/", end + 1)
            if (path if end < 0 else path[:end]) in self._names:
                return True
            if end < 0:
                break
        return self._wild is not None and self._wild.match(path) is not None


def _parsed(text: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether a pattern excludes, and its components."""
    if len(text) > _LONGEST or "\0" in text:
        raise InvalidInput(f"pattern {text[:60]!r} is longer than a path, or has a NUL")
    excludes = not text.startswith("!")
    parts = tuple(part for part in text.removeprefix("!").split("/") if part not in ("", "."))
    if not parts or ".." in parts:
        raise InvalidInput(
            f"pattern {text[:60]!r} names nothing: write a path from the root, as var/cache/*"
        )
    return excludes, parts


def _literal(part: str) -> str | None:
    """Return the name that a component is, None where it is a pattern."""
    return None if any(character in part for character in "*?[\\") else part


def _expression(parts: tuple[str, ...]) -> str:
    """Return the expression for a path that begins with these components."""
    found = ""
    for deep, names in groupby(parts, key=_ANY_DEEP.__eq__):
        if deep:
            continue
        name = "/".join(map(_component, names))
        # What is not the beginning comes after a **: at the first place where it can be.
        beginning = not found and parts[0] != _ANY_DEEP
        found += name if beginning else "/" * bool(found) + f"(?>(?:[^/]+/)*?{name})"
    if parts[-1] == _ANY_DEEP:  # what is in a directory, not itself
        found += "/" * bool(found) + "[^/]"
    return found


def _component(part: str) -> str:
    """Return the expression for one name."""
    pieces, at = [""], 0
    while at < len(part):
        if part[at] == "*":
            pieces += [""] if pieces[-1] or len(pieces) == 1 else []
            at += 1
            continue
        one, at = _one(part, at)
        pieces[-1] += one
    first, *rest = pieces
    if not rest:
        return first + _END
    middle = "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1])
    return f"{first}{middle}[^/]*{rest[-1]}{_END}"


def _one(part: str, at: int) -> tuple[str, int]:
    """Return the expression for one character, and where the next one is."""
    character = part[at]
    if character == "?":
        return "[^/]", at + 1
    if character == "[":
        return _class(part, at + 1)
    if character == "\\":
        at += 1
        if at == len(part):
            raise InvalidInput(f"pattern {part[:60]!r} ends with a backslash, which quotes nothing")
    return re.escape(part[at]), at + 1


def _class(part: str, at: int) -> tuple[str, int]:
    """Return the expression for ``[a-z]`` or ``[^a-z]``, from after its first bracket on."""
    negated = part[at : at + 1] in ("^", "!")
    at += negated
    ranges: list[str] = []
    while part[at : at + 1] != "]" or not ranges:
        low, at = _bound(part, at)
        high = low
        if part[at : at + 1] == "-" and part[at + 1 : at + 2] != "]":
            high, at = _bound(part, at + 1)
        if low > high:
            raise InvalidInput(f"pattern {part[:60]!r} has a range whose end is before its start")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"(?!/)[{'^' * negated}{''.join(ranges)}]", at + 1


def _bound(part: str, at: int) -> tuple[str, int]:
    if part[at : at + 1] == "\\":
        at += 1
    if at >= len(part):
        raise InvalidInput(f"pattern {part[:60]!r} has a [ without its ]")
    return part[at], at + 1
