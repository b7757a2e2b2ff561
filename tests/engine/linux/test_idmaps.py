"""Maps of ids: what a store has written down, read again."""

from __future__ import annotations

import json

import pytest

from cellblock_engine.linux.idmaps import Extent, IdMaps


def test_maps_come_back_as_they_were_written() -> None:
    maps = IdMaps((Extent(0, 1000, 1), Extent(1, 100000, 65535)), (Extent(0, 100, 1),))
    assert IdMaps.of(json.loads(json.dumps(maps))) == maps


@pytest.mark.attack(79)
@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "7",
        "[[], []]",
        "[[[0, 1000, 1]], []]",
        "[[[0, 1000]], [[0, 1000, 1]]]",
        '[[["0", "1000", "1"]], [[0, 1000, 1]]]',
        "[[[0, -1, 1]], [[0, 1000, 1]]]",
        "[[[0, 1e3, 1]], [[0, 1000, 1]]]",
        "[[[0, 4294967296, 1]], [[0, 1000, 1]]]",
        "[[[0, 1000, true]], [[0, 1000, 1]]]",
    ],
)
def test_what_are_no_maps(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        IdMaps.of(json.loads(text))
