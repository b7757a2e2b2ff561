"""The engine's dataclasses as documents: plain dictionaries, lists, strings and numbers.

What ``inspect`` and ``--json`` show follows the dataclasses, so that it needs no second list of
their fields. Nothing is read back from such a document.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime


def rfc3339(time: datetime) -> str:
    """Return an aware time as RFC 3339 has it, in UTC: ``2025-01-31T12:00:00.000001Z``."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def document(value: object) -> object:  # noqa: PLR0911 - one for each kind
    """Return ``value`` in terms of JSON.

    Dataclasses and mappings become dictionaries, times RFC 3339 text, bytes text; whatever JSON
    has no word for (a digest, a reference, a path, infinity) becomes its ``str()``.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case datetime():
            return rfc3339(value)
        case bytes():
            return value.decode(errors="replace")
        case Mapping():
            return {str(key): document(item) for key, item in value.items()}
        case Sequence() | Set():
            return [document(item) for item in value]
    return record(value) if _is_record(value) else str(value)


def record(value: object) -> dict[str, object]:
    """Return a dataclass as a document: its fields by their names."""
    assert dataclasses.is_dataclass(value)
    fields = dataclasses.fields(value)
    return {field.name: document(getattr(value, field.name)) for field in fields}


def _is_record(value: object) -> bool:
    """Tell a dataclass with fields of its own from one that is written as a word."""
    return dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__


def json_text(value: object) -> str:
    """Return ``value`` as indented JSON."""
    return json.dumps(document(value), indent=2, ensure_ascii=False)


def flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return the leaves of a document by their dotted names, as ``limits.memory``."""
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
