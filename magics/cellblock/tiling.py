"""Rectangles whose areas are given, side by side in a larger one, none long and thin; no I/O.

The layout is the squarified treemap of Bruls, Huizing and van Wijk (2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Tile(NamedTuple):
    """A rectangle, by its lower left corner."""

    x: float
    y: float
    width: float
    height: float


def tiles(values: Sequence[float], within: Tile) -> list[Tile]:
    """Return a tile of ``within`` for each value, their areas in proportion.

    The values are above 0, the largest first; those that are next to nothing beside the others
    are for the caller to leave out.
    """
    left = [value * within.width * within.height / sum(values) for value in values]
    found: list[Tile] = []
    x, y, width, height = within
    while left:
        side = min(width, height)
        count = _row_length(left, side)
        row, left = left[:count], left[count:]
        is_column = width >= height
        breadth = sum(row) / side
        begin = 0.0
        for area in row:
            length = area / breadth
            place = (
                (x, y + begin, breadth, length) if is_column else (x + begin, y, length, breadth)
            )
            found.append(Tile(*place))
            begin += length
        if is_column:
            x, width = x + breadth, width - breadth
        else:
            y, height = y + breadth, height - breadth
    return found


def _row_length(areas: Sequence[float], side: float) -> int:
    """Return how many of the areas stand best in one row along ``side``."""
    count = 1
    while count < len(areas) and _thinnest(areas[: count + 1], side) <= _thinnest(
        areas[:count], side
    ):
        count += 1
    return count


def _thinnest(row: Sequence[float], side: float) -> float:
    """Return how many times longer than wide the worst tile of a row is."""
    breadth = sum(row) / side
    return max(max(area / breadth**2, breadth**2 / area) for area in row)
