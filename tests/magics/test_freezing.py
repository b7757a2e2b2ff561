"""What freeze shows while it works, and at its end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellblock.verbs import VERBS
from cellblock.verbs.freezing import Freezing
from cellblock.verbs.group import find
from cellblock_engine import FreezeEvent, FreezeRequest, Frozen, FrozenLayer, InvalidInput
from support.fake_engine import image

HALF = FreezeEvent("docker.io/mine/env:1", "packages", 50 << 20, 100 << 20)


class FreezingEngine:
    def __init__(self):
        self.asked = []

    def freeze(self, reference, request, *, progress):
        self.asked.append((reference, request))
        progress(HALF)
        progress(replace(HALF, layer="", current_bytes=HALF.total_bytes))
        made = image("mine/env:1")
        layers = (FrozenLayer("interpreter", "Python 3.12.1", made.id, 48 << 20),)
        missing = {"libb.so.1": "/b", "liba.so": "/a"}
        return Frozen(**vars(made), frozen_layers=layers, missing=missing, left_out=("one", "two"))


def freeze(call, words: str, engine: FreezingEngine):
    found = find(["freeze", *words.split()], VERBS, prog="cellblock", overview=str)
    arguments = found.verb.parse(found.rest, prog=found.prog)
    return found.verb.action(call(engine, arguments))


@pytest.fixture
def call():
    from contextlib import contextmanager

    from cellblock.verbs.declaration import Call

    @contextmanager
    def progress(work=None):
        yield work.take

    return lambda engine, arguments: Call(engine, arguments, progress, {}, None)


def test_what_was_made_and_what_was_not_is_said(call):
    engine = FreezingEngine()
    outcome = freeze(call, "--python python3.12 mine/env:1", engine)
    assert engine.asked == [("mine/env:1", FreezeRequest("python3.12"))]
    facts = dict(outcome.document)
    assert facts.pop("image").startswith("sha256:")
    assert facts == {
        "interpreter": "48 MiB, Python 3.12.1",
        "not found": "liba.so, libb.so.1",
        "left out": "one; two",
    }


def test_a_name_is_needed(call):
    with pytest.raises(InvalidInput, match="give a name for it, or --explain"):
        freeze(call, "", FreezingEngine())


def test_how_far_it_is_is_one_line_and_one_bar():
    work = Freezing()
    assert (work.line(), work.parts()) == ("looking at the environment", {})
    work.take(HALF)
    assert work.line() == "docker.io/mine/env:1: packages, 50% of 100 MiB"
    (part,) = work.parts().values()
    assert (part.name, part.done, part.amount) == ("packages", 0.5, "50 MiB / 100 MiB")
    assert not work.finished
    work.take(replace(HALF, layer="", current_bytes=HALF.total_bytes))
    assert work.finished
    assert work.line().startswith("docker.io/mine/env:1: 100 MiB in ")
    assert work.parts() == {}
