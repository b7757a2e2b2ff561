"""Typed reading of JSON objects that a stranger wrote; no I/O.

Every reader names what it wanted and raises InvalidAnswer in one line. A member that is missing
and one that is null are the same, as in Go, which most image tools are written in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ..errors import InvalidAnswer

_MAX_INTEGER = 2**63 - 1
# Strings become arguments, environment and file names: the kernel's end at the NUL, and half a
# surrogate pair has no bytes at all.
_UNCARRIED = re.compile("[\0\ud800-\udfff]")


class JsonObject:
    """One decoded JSON object; ``what`` names it in errors (``the image manifest``)."""

    def __init__(self, members: Mapping[str, object], what: str) -> None:
        self._members, self.what = members, what

    @classmethod
    def decode(cls, raw: bytes, what: str, cap_bytes: int) -> JsonObject:
        """Return the object ``raw`` holds as UTF-8. Raises InvalidAnswer.

        Duplicate names are refused: parsers differ in which of the two they believe.
        """
        value = _decode(raw, what, cap_bytes)
        if not isinstance(value, dict):
            raise InvalidAnswer(f"{what} is not a JSON object")
        return cls(value, what)

    @classmethod
    def decode_all(cls, raw: bytes, what: str, cap_bytes: int, most: int) -> tuple[JsonObject, ...]:
        """Return the objects of the array ``raw`` holds, at most ``most``. Raises InvalidAnswer."""
        value = _decode(raw, what, cap_bytes)
        if not isinstance(value, list):
            raise InvalidAnswer(f"{what} is not a JSON array")
        return cls({"entries": value}, what).members("entries", most)

    def __contains__(self, name: str) -> bool:
        """Tell whether the member is there and not null."""
        return self._members.get(name) is not None

    def text(self, name: str) -> str | None:
        """Return a string member, None where it is missing."""
        value = self._members.get(name)
        return None if value is None else self._string(name, value)

    def required_text(self, name: str) -> str:
        """Return a string member that must be there."""
        value = self.text(name)
        if value is None:
            raise self.wrong(name, "is missing")
        return value

    def integer(self, name: str) -> int:
        """Return a whole number from 0 to 2^63-1 that must be there."""
        value = self._members.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "is not a whole number")
        if not 0 <= value <= _MAX_INTEGER:
            raise self.wrong(name, "is out of range")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean member, False where it is missing."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "is not true or false")
        return bool(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return an array of strings, empty where it is missing."""
        return tuple(self._string(name, item) for item in self._array(name))

    def mapping(self, name: str) -> dict[str, str]:
        """Return an object whose members are all strings, empty where it is missing."""
        return {
            self._string(name, key): self._string(name, value)
            for key, value in self._object(name).items()
        }

    def names(self, name: str) -> tuple[str, ...]:
        """Return the member names of an object that is used as a set."""
        return tuple(self._string(name, key) for key in self._object(name))

    def member(self, name: str) -> JsonObject | None:
        """Return an object member, None where it is missing."""
        if name not in self:
            return None
        return JsonObject(self._object(name), f"{self.what}'s {name!r}")

    def required_member(self, name: str) -> JsonObject:
        """Return an object member that must be there."""
        value = self.member(name)
        if value is None:
            raise self.wrong(name, "is missing")
        return value

    def members(self, name: str, most: int) -> tuple[JsonObject, ...]:
        """Return an array of at most ``most`` objects, empty where it is missing."""
        items = self._array(name)
        if len(items) > most:
            raise self.wrong(name, f"has {len(items)} entries, more than the {most} allowed")
        found = []
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise self.wrong(name, f"has an entry {number} that is not an object")
            found.append(JsonObject(item, f"{self.what}'s {name!r} {number}"))
        return tuple(found)

    def wrong(self, name: str, reason: str) -> InvalidAnswer:
        """Return the error that says what is wrong with one member."""
        return InvalidAnswer(f"{self.what} is not valid: {name!r} {reason}")

    def _array(self, name: str) -> list[object]:
        value = self._members.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "is not an array")
        return value

    def _object(self, name: str) -> dict[str, object]:
        value = self._members.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(name, "is not an object")
        return value

    def _string(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.wrong(name, "is not a string")
        if _UNCARRIED.search(value):
            raise self.wrong(name, "has a character that no string can carry")
        return value


def _decode(raw: bytes, what: str, cap_bytes: int) -> object:
    if len(raw) > cap_bytes:
        raise InvalidAnswer(f"{what} has {len(raw)} bytes, more than the {cap_bytes} allowed")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer(f"{what} is not valid JSON ({_one_line(error)})") from error


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return members


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
