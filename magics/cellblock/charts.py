"""Bars and treemaps of bytes, for a notebook. The only module that imports matplotlib, to draw."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from cellblock_engine import Unsupported

from .tables import plain, size
from .tiling import Tile, tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .verbs.outcome import Chart

_MOST_BARS = 100
_WIDTH_INCHES, _FRAME_INCHES, _BAR_INCHES = 8, 1.2, 0.3
_MAP = Tile(0, 0, 8, 5)
_LETTER_INCHES, _LINE_INCHES, _FEWEST_LETTERS = 0.085, 0.16, 4
_SMALLEST_PART = 1 / 5000
"""Of a treemap: what is smaller could not be seen."""


def figure(chart: Chart) -> Figure:
    """Return a figure that shows itself, also where ``%matplotlib inline`` was never said.

    Of more than 100 bars the first are drawn. Raises Unsupported without matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - half a second, and optional
    except ModuleNotFoundError as error:
        raise Unsupported("--plot needs matplotlib: install it (pip install matplotlib)") from error

    class Drawing(Figure):
        """A figure that no window and no backend knows of."""

        def _repr_png_(self) -> bytes:
            picture = BytesIO()
            self.savefig(picture, format="png", bbox_inches="tight")
            return picture.getvalue()

    is_map = chart.form == "treemap"
    bars_inches = _FRAME_INCHES + _BAR_INCHES * len(chart.labels[:_MOST_BARS])
    drawn = Drawing(figsize=_MAP[2:] if is_map else (_WIDTH_INCHES, bars_inches))
    axes = drawn.subplots()
    if is_map:
        drawn.subplots_adjust(0, 0, 1, 1)  # so that its units are inches
    (_draw_map if is_map else _draw_bars)(axes, chart)
    axes.set_title(plain(chart.title))
    for words in (axes.title, *axes.get_yticklabels(), *axes.texts):
        words.set_parse_math(False)  # what others wrote is no formula
    if len(chart.series) > 1:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": len(chart.series)}
        axes.legend(**(below if is_map else {}))
    return drawn


def _draw_bars(axes: Axes, chart: Chart) -> None:
    labels = [plain(label) for label in chart.labels[:_MOST_BARS]]
    starts = [0] * len(labels)
    for name, values in chart.series:
        axes.barh(range(len(labels)), values[:_MOST_BARS], left=starts, label=name)
        starts = [start + value for start, value in zip(starts, values, strict=False)]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: size(int(value)))


def _draw_map(axes: Axes, chart: Chart) -> None:
    """Draw a tile for each label, of which each series has a strip."""
    sums = [sum(values) for values in zip(*(values for _, values in chart.series), strict=True)]
    seen = [place for place, each in enumerate(sums) if each > sum(sums) * _SMALLEST_PART]
    places = dict(zip(seen, tiles([sums[place] for place in seen], _MAP), strict=True))
    begins = {place: tile.y for place, tile in places.items()}
    for number, (name, values) in enumerate(chart.series):
        strips = {p: tile.height * values[p] / sums[p] for p, tile in places.items()}
        axes.bar(
            [tile.x for tile in places.values()],
            list(strips.values()),
            [tile.width for tile in places.values()],
            list(begins.values()),
            align="edge",
            color=f"C{number}",
            alpha=0.7,
            edgecolor="white",
            label=name,
        )
        begins = {place: begin + strips[place] for place, begin in begins.items()}
    for place, tile in places.items():
        axes.text(
            tile.x + tile.width / 2,
            tile.y + tile.height / 2,
            _fitting(plain(chart.labels[place]), size(sums[place]), tile),
            ha="center",
            va="center",
            fontsize="small",
        )
    axes.set(xlim=(0, _MAP.width), ylim=(0, _MAP.height), xticks=[], yticks=[])


def _fitting(path: str, amount: str, tile: Tile) -> str:
    """Return as much as a tile has room for: of a path the end, and an amount whole."""
    most, lines = int(tile.width / _LETTER_INCHES), int(tile.height / _LINE_INCHES)
    if most < _FEWEST_LETTERS or not lines:
        return ""
    name = path if len(path) <= most else f"…{path[1 - most :]}"
    return f"{name}\n{amount}" if lines > 1 and len(amount) <= most else name
