"""Where a step comes from: what is written is read again, within bounds, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellblock_engine.oci.config import HistoryEntry, ImageConfig, ImageDocument
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.platform import Platform
from cellblock_engine.oci.provenance import (
    MAX_BYTES,
    ExecutedCell,
    Provenance,
    labelled,
    read_provenance,
)
from cellblock_engine.packages.package import PackageChange

LAYER, BASE = Digest.of(b"layer"), Digest.of(b"base")
PLACE = "/usr/lib/python3/site-packages"
CHANGES = (
    PackageChange("changed", "python", "numpy", "1.26", "2.0", PLACE),
    PackageChange("added", "python", "pandas", None, "2.2", PLACE),
)
FULL = Provenance(
    notebook="work/a.ipynb",
    cells=(
        ExecutedCell(2, "x = 'ä\n\u2028'"),
        ExecutedCell(3, None, "secret"),
        ExecutedCell(None, "y"),
        ExecutedCell(7, None, "too long"),
    ),
    older_cells=4,
    packages=CHANGES,
    more_packages=1,
    base_name="docker.io/library/python:3.12-slim",
    base_digest=BASE,
    engine="0.1.0",
    diffid=LAYER,
)


def document(labels: dict[str, str], *, steps: int = 2) -> ImageDocument:
    history = (HistoryEntry(None, "", "", "", empty_layer=False),) * steps
    config = ImageConfig(labels=labels)
    return ImageDocument(Platform.host(), None, "", config, (BASE, LAYER), history)


def again(provenance: Provenance, most_bytes: int = MAX_BYTES) -> Provenance:
    labels = labelled({}, provenance, 1, most_bytes)
    (text,) = (text for name, text in labels.items() if name == "cellblock.provenance.1")
    assert len(json.dumps(text)) <= most_bytes
    first, found = read_provenance(document(labels))
    assert first is None
    assert found is not None
    return found


def test_what_is_written_is_read():
    assert again(FULL) == FULL
    nothing = Provenance(diffid=LAYER)
    assert again(nothing) == nothing
    unchanged = replace(nothing, packages=())
    assert again(unchanged) == unchanged


def test_labels_of_the_base_stay_but_for_those_of_its_own_base():
    base = {
        "mine": "1",
        "cellblock.provenance.0": "{}",
        "org.opencontainers.image.base.name": "old",
        "org.opencontainers.image.base.digest": "old",
    }
    found = labelled(base, FULL, 1, MAX_BYTES)
    assert found["org.opencontainers.image.base.name"] == FULL.base_name
    assert found["org.opencontainers.image.base.digest"] == str(BASE)
    assert (found["mine"], found["cellblock.provenance.0"]) == ("1", "{}")
    unnamed = labelled(base, replace(FULL, base_name=""), 1, MAX_BYTES)
    assert "org.opencontainers.image.base.name" not in unnamed


def test_in_short():
    assert FULL.cells_in_short == "4 older, 2-3, 7, ?"
    assert FULL.packages_in_short == "~numpy 1.26->2.0, +pandas 2.2, 1 more"
    one = Provenance("a.ipynb", (ExecutedCell(3, "x"),), packages=CHANGES[1:])
    assert one.in_short == "notebook cell 3 of a.ipynb: +pandas 2.2"
    assert replace(one, packages=CHANGES * 100).in_short.count("pandas") == 1
    many = tuple(replace(CHANGES[1], name=f"name{number}") for number in range(100))
    assert len(replace(one, packages=many).in_short) == 300
    assert Provenance(packages=CHANGES).in_short == ""
    assert (Provenance().cells_in_short, Provenance().packages_in_short) == (None, None)


def test_too_many_cells_are_counted_the_oldest_first():
    cells = tuple(ExecutedCell(number, f"{'x' * 1000}{number}") for number in range(1, 1501))
    found = again(replace(FULL, cells=cells))
    kept = len(found.cells)
    assert kept * 1000 > 0.9 * MAX_BYTES
    assert found.cells == cells[-kept:]
    assert found.older_cells == 4 + 1500 - kept
    assert found.packages == CHANGES
    small = tuple(ExecutedCell(number, "") for number in range(1, 1501))
    found = again(replace(FULL, cells=small))
    assert (len(found.cells), found.older_cells) == (1000, 504)


def test_of_a_last_cell_that_is_too_long_the_number_is_kept():
    found = again(replace(FULL, cells=(ExecutedCell(1, "a"), ExecutedCell(2, "x" * MAX_BYTES))))
    assert found.cells == (ExecutedCell(2, None, "too long"),)
    assert found.older_cells == 5


def test_too_many_packages_are_counted():
    many = tuple(replace(CHANGES[1], name=f"name{number}") for number in range(5000))
    found = again(replace(FULL, packages=many))
    assert (len(found.packages or ()), found.more_packages) == (1000, 4001)
    found = again(replace(FULL, packages=many), 10_000)
    assert 0 < len(found.packages or ()) < 100
    assert len(found.packages or ()) + found.more_packages == 5001


@given(st.text() | st.text(st.characters(categories=["Cs", "Cc"])), st.integers(2000, 20_000))
def test_any_source_fits_and_is_read(source: str, most_bytes: int):
    cells = (ExecutedCell(1, source * 9), ExecutedCell(2, source))
    found = again(replace(FULL, cells=cells), most_bytes)
    assert [cell.number for cell in found.cells][-1] == 2


def told(**members: object) -> str:
    plain = {"cells": [{"number": 1, "source": "x"}], "diffid": str(LAYER), "packages": []}
    return json.dumps(plain | members)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        told(diffid=str(Digest.of(b"another"))),
        told(diffid=None),
        told(diffid="sha256:zz"),
        told(notebook="\x1b[2J"),
        told(notebook="x" * 300),
        told(notebook=7),
        told(cells=[{"number": -1, "source": "x"}]),
        told(cells=[{"number": 10**10, "source": "x"}]),
        told(cells=[{"number": True, "source": "x"}]),
        told(cells=[{"number": 1, "source": "a\0b"}]),
        told(cells=[{"number": 1, "source": "a", "omitted": "secret"}]),
        told(cells=[{"number": 1, "omitted": "\x1b"}]),
        told(cells=[{}] * 1001),
        told(cells="x"),
        told(packages=[{"change": "added", "kind": "python", "name": "a", "old": "1"}]),
        told(packages=[{"change": "added", "kind": "perl", "name": "a", "new": "1"}]),
        told(packages=[{"change": "added", "kind": "python", "name": "a\nb", "new": "1"}]),
        told(packages=[{"change": "added", "kind": "python", "new": "1"}]),
        told(base_digest="latest"),
        told(older_cells=-1),
        told(notebook="x", pad="x" * (2 * MAX_BYTES)),
    ],
)
def test_what_is_not_understood_is_not_known(text: str):
    assert read_provenance(document({"cellblock.provenance.1": told()}))[1] is not None
    assert read_provenance(document({"cellblock.provenance.1": text})) == (None, None)


def test_a_step_that_is_not_there_has_none():
    labels = {f"cellblock.provenance.{number}": told() for number in ("2", "-1", "01", "x")}
    assert read_provenance(document(labels)) == (None, None)
