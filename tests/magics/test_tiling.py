"""The layout of a treemap."""

from __future__ import annotations

import random

import pytest

from cellblock.tiling import Tile, tiles

WHOLE = Tile(0, 0, 8, 5)


@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_tiles_fill_the_whole_in_proportion_and_none_is_over_another(count: int):
    numbers = random.Random(count)
    values = sorted((numbers.uniform(1, 1000) for _ in range(count)), reverse=True)
    found = tiles(values, WHOLE)
    areas = [tile.width * tile.height for tile in found]
    assert areas == pytest.approx([40 * value / sum(values) for value in values])
    for tile in found:
        assert min(tile.x, tile.y) >= -1e-9
        assert tile.x + tile.width <= 8 + 1e-9
        assert tile.y + tile.height <= 5 + 1e-9
    for one in found:
        others = [other for other in found if other is not one]
        assert not any(overlap(one, other) for other in others)


def overlap(one: Tile, other: Tile) -> bool:
    wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return wide > 1e-9 and high > 1e-9


def test_equal_values_make_no_thin_tiles():
    for tile in tiles([1.0] * 12, WHOLE):
        assert 0.4 < tile.width / tile.height < 2.5


def test_nothing_makes_no_tile():
    assert tiles([], WHOLE) == []
