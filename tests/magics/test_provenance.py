"""provenance: the cells of an image as a table."""

from __future__ import annotations

import pytest

from cellblock.frames import frame
from cellblock_engine import ImageNotFound
from magics.test_reading import cells, do


def test_cells_are_rows(fake):
    assert cells(do(fake, "provenance python:3.12-slim")) == [
        ["STEP", "NOTEBOOK", "CELL", "SOURCE"],
        ["2", "a.ipynb", "2", "import six…"],
        ["2", "a.ipynb", "?", "<secret>"],
        ["2", "a.ipynb", "4", "x" * 59 + "…"],
    ]
    whole = cells(do(fake, "provenance --no-trunc python:3.12-slim"), wide=True)
    assert whole[1][3] == "import six ↵ six\ufffd[2J"
    assert whole[3][3] == "x" * 99
    with pytest.raises(ImageNotFound):
        do(fake, "provenance nowhere")


def test_sources_are_whole_in_a_dataframe(fake):
    data = frame(do(fake, "provenance python:3.12-slim").table)
    assert data.source[0] == "import six\nsix\x1b[2J"
    assert data.cell.isna().tolist() == [False, True, False]
    assert data.omitted[1] == "secret"
    assert "\x1b" not in data._repr_html_()
