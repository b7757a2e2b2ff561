"""Steps beside layers, also where an image's config tells more, or less, than there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cellblock_engine.history import history
from cellblock_engine.layout import Layout
from cellblock_engine.oci.config import HistoryEntry, ImageConfig, ImageDocument
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.platform import Platform
from cellblock_engine.oci.provenance import ExecutedCell, Provenance
from cellblock_engine.store import Store
from support import tars
from support.layers import add_layer

Document = Callable[..., ImageDocument]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Layout(tmp_path / "store", tmp_path / "run"))


@pytest.fixture
def layers(store: Store) -> tuple[Digest, ...]:
    members = (tars.file(b"a", b"12345"), tars.directory(b"d/"), tars.file(b".wh.a"))
    return tuple(add_layer(store, [tars.archive(member)])[0] for member in members)


def step(word: str, *, empty: bool = False) -> HistoryEntry:
    return HistoryEntry(None, word, "", "", empty_layer=empty)


def document(
    layers: tuple[Digest, ...], *steps: HistoryEntry, labels: dict[str, str] | None = None
) -> ImageDocument:
    config = ImageConfig(labels=labels or {})
    return ImageDocument(Platform.host(), None, "", config, layers, steps)


def test_steps_have_their_layers_from_the_bottom_up(store: Store, layers: tuple[Digest, ...]):
    steps = (step("one"), step("two", empty=True), step("three"), step("four"))
    rows = history(store, document(layers, *steps))
    assert [(row.created_by, row.diffid, row.size_bytes, row.files) for row in rows] == [
        ("four", layers[2], 0, 1),
        ("three", layers[1], 0, 1),
        ("two", None, 0, None),
        ("one", layers[0], 5, 1),
    ]


def test_a_layer_without_a_step_has_a_row(store: Store, layers: tuple[Digest, ...]):
    rows = history(store, document(layers, step("one")))
    assert [(row.created_by, row.diffid) for row in rows] == [
        ("", layers[2]),
        ("", layers[1]),
        ("one", layers[0]),
    ]
    assert [row.diffid for row in history(store, document(layers))] == list(layers[::-1])


def test_a_step_without_a_layer_is_told_too(store: Store, layers: tuple[Digest, ...]):
    rows = history(store, document(layers[:1], step("one"), step("made up")))
    assert [(row.created_by, row.diffid) for row in rows] == [("made up", None), ("one", layers[0])]


@pytest.mark.attack(50)
def test_labels_say_what_they_want_and_no_more(store: Store, layers: tuple[Digest, ...]):
    good = Provenance(cells=(ExecutedCell(2, "x"),), packages=(), diffid=layers[1])
    hostile = {"cells": [{"number": 1, "source": "x" * 99_999}], "notebook": "\x1b[2J"}
    labels = {
        "cellblock.provenance.0": json.dumps(hostile),
        "cellblock.provenance.1": good.encode(),
        "cellblock.provenance.2": "{" * 99_999,
        "cellblock.provenance.999999999": "{}",
        "cellblock.kernel": "x",
    }
    rows = history(store, document(layers, *map(step, ("one", "two", "three")), labels=labels))
    assert [(row.cells, row.packages) for row in rows] == [(None, None), ("2", ""), (None, None)]
