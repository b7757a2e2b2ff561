"""Bars of bytes, for a notebook. The only module that imports matplotlib, when one is drawn."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from cellblock_engine import Unsupported

from .tables import plain, size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .verbs.outcome import Chart

_MOST_BARS = 100
_WIDTH_INCHES, _FRAME_INCHES, _BAR_INCHES = 8, 1.2, 0.3


def figure(chart: Chart) -> Figure:
    """Return a figure that shows itself, also where ``%matplotlib inline`` was never said.

    Of more than 100 bars the first are drawn. Raises Unsupported without matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - half a second, and optional
    except ModuleNotFoundError as error:
        raise Unsupported("--plot needs matplotlib: install it (pip install matplotlib)") from error

    class Bars(Figure):
        """A figure that no window and no backend knows of."""

        def _repr_png_(self) -> bytes:
            picture = BytesIO()
            self.savefig(picture, format="png", bbox_inches="tight")
            return picture.getvalue()

    labels = [plain(label) for label in chart.labels[:_MOST_BARS]]
    drawn = Bars(figsize=(_WIDTH_INCHES, _FRAME_INCHES + _BAR_INCHES * len(labels)))
    axes = drawn.subplots()
    starts = [0] * len(labels)
    for name, values in chart.series:
        axes.barh(range(len(labels)), values[:_MOST_BARS], left=starts, label=name)
        starts = [start + value for start, value in zip(starts, values, strict=False)]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: size(int(value)))
    axes.set_title(plain(chart.title))
    for words in (axes.title, *axes.get_yticklabels()):
        words.set_parse_math(False)  # what others wrote is no formula
    if len(chart.series) > 1:
        axes.legend()
    return drawn
