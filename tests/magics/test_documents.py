"""Dataclasses as documents."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cellblock.documents import document, flat, json_text, record, rfc3339
from cellblock_engine import Digest, Limits, Reference


@dataclass(frozen=True)
class Thing:
    digest: Digest
    reference: Reference
    limits: Limits
    words: tuple[str, ...]
    raw: bytes
    path: Path
    time: datetime
    share: float


THING = Thing(
    Digest.of(b""),
    Reference.parse("python"),
    Limits(memory="64m"),
    ("a", "b"),
    b"\xff",
    Path("/srv"),
    datetime(2025, 1, 31, 13, tzinfo=timezone(timedelta(hours=1))),
    math.inf,
)


def test_everything_becomes_json():
    found = json.loads(json_text(THING))
    assert found == record(THING)
    assert found["digest"] == str(THING.digest)
    assert found["reference"] == "docker.io/library/python:latest"
    assert found["limits"].pop("memory") == 64 << 20
    assert set(found["limits"].values()) == {None}
    assert found["words"] == ["a", "b"]
    assert found["raw"] == "\N{REPLACEMENT CHARACTER}"
    assert found["path"] == "/srv"
    assert found["time"] == "2025-01-31T12:00:00.000000Z"
    assert found["share"] == "inf"


def test_times_are_rfc3339_and_read_back():
    assert datetime.fromisoformat(rfc3339(THING.time)) == THING.time


def test_flat_names_are_dotted():
    tree = {"a": {"b": {"c": 1}, "d": 2}, "e": {}}
    assert flat(tree) == {"a.b.c": 1, "a.d": 2, "e": {}}


def test_keys_become_words():
    assert document({1: {2, 3}}) in ({"1": [2, 3]}, {"1": [3, 2]})
