"""Reads what an untrusted kernel says, in bounded time: before it is parsed it may be anything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .messages import Message

MOST_BYTES = 64 << 20
_SMALL_BYTES = 2 << 20
_MOST_VALUES = 500_000  # where a value is one byte, a parser makes fifty of it
_STREAM = re.compile(rb'\s*\{\s*"name"\s*:\s*"(stdout|stderr)"\s*,\s*"text"\s*:\s*(?=")')
_STREAM_END = re.compile(r"\s*\}\s*")
_DECODER = json.JSONDecoder()
_INTEGERS = 1 << 53  # of JavaScript
_MOST_ITEMS = 10_000


def read(message: Message) -> Mapping[str, Any] | None:
    """Return what a message says; None for what is above 64 MiB, or of too many values."""
    frame = message.unparsed
    if len(frame) > MOST_BYTES:
        return None
    if len(frame) > _SMALL_BYTES:
        raw = frame.bytes
        stream = _read_stream(raw)
        if stream is not None:
            return stream
        if sum(map(raw.count, (b"[", b"{", b","))) > _MOST_VALUES:
            return None
    return message.content


def text(value: object) -> str:
    """Return text, which may be in pieces; nothing for anything else."""
    if isinstance(value, list):
        return "".join(piece for piece in value if isinstance(piece, str))
    return value if isinstance(value, str) else ""


def number(value: object) -> int:
    """Return a whole number that is not negative; 0 for anything else."""
    return value if type(value) is int and 0 <= value < _INTEGERS else 0


def items(value: object) -> list[Any]:
    """Return a list, at most its first 10,000; an empty one for anything else."""
    return value[:_MOST_ITEMS] if isinstance(value, list) else []


def mapping(value: object) -> dict[str, Any]:
    """Return a mapping; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _read_stream(raw: bytes) -> Mapping[str, Any] | None:
    """Return what is said on a stream, which may be large, if it is in the form that all use."""
    start = _STREAM.match(raw)
    if start is None:
        return None
    try:
        decoded = raw.decode()
        said, end = _DECODER.raw_decode(decoded, start.end())
    except ValueError:
        return None
    if not _STREAM_END.fullmatch(decoded, end):
        return None
    return {"name": start[1].decode(), "text": said}
