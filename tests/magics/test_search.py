"""search, from its words to what is seen."""

from __future__ import annotations

import json

import pytest

from cellblock import terminal
from cellblock.frames import frame
from cellblock_engine import FoundImage, InvalidInput
from magics.test_reading import cells, do

FOUND = (
    FoundImage(
        "python", "Python is an interpreted, interactive, object-oriented language", 9, True, 7
    ),
    FoundImage("ours/python", "", 0, False, None),
)
NAMES_ONLY = (FoundImage("registry.lan:5000/python", None, None, None, None),)


class Registry:
    def __init__(self, found):
        self.found, self.asked = found, []

    def search(self, term, *, limit):
        self.asked.append((term, limit))
        return self.found[:limit]


def test_what_is_found_is_a_table(capsys):
    registry = Registry(FOUND)
    titles, first, second = cells(do(registry, "search --limit 7 python"))
    assert registry.asked == [("python", 7)]
    assert titles == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert first == ["python", "Python is an interpreted, interactive, objec…", "9", "[OK]"]
    assert second == ["ours/python", "0"]
    assert cells(do(registry, "search --no-trunc python"), wide=True)[1][1] == FOUND[0].description
    assert terminal.render(do(registry, "search --json python")) == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        "name": "ours/python",
        "description": "",
        "stars": 0,
        "official": False,
        "pulls": None,
    }


def test_it_keeps_its_types_and_what_is_not_told():
    data = frame(do(Registry(FOUND + NAMES_ONLY), "search python").table)
    assert {name: str(kind) for name, kind in data.dtypes.items()} == {
        "name": "str",
        "description": "str",
        "stars": "Int64",
        "official": "boolean",
        "pulls": "Int64",
    }
    assert data.stars.isna().tolist() == data.official.isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("-f is-official", ["python"]),
        ("--filter is-official=true", ["python"]),
        ("-f is-official=false", ["ours/python"]),
        ("-f stars=9", ["python"]),
        ("-f stars=0", ["python", "ours/python"]),
        ("-f stars=1 -f stars=10", []),
        ("-f stars=0 -f is-official=false", ["ours/python"]),
    ],
)
def test_filters(words, left):
    assert [row.name for row in do(Registry(FOUND), f"search {words} x").table.rows] == left


@pytest.mark.parametrize("words", ["stars=", "stars", "stars=many", "is-official=x", "label=a"])
def test_filters_that_are_not_known_are_refused(words):
    with pytest.raises(InvalidInput):
        do(Registry(FOUND), f"search -f {words} x")


def test_a_filter_of_what_a_registry_does_not_tell_is_refused():
    with pytest.raises(InvalidInput, match="which tells names only"):
        do(Registry(NAMES_ONLY), "search -f stars=1 registry.lan:5000/python")
    assert do(Registry(()), "search -f stars=1 registry.lan:5000/python").table.rows == ()
