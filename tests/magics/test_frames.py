"""Tables as DataFrames."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from cellblock.frames import Listing, frame, inspection
from cellblock.tables import Table
from cellblock.verbs.containers import ContainerRow, row
from cellblock.verbs.images import ImageRow, rows
from support.fake_engine import container, image


@pytest.fixture
def images() -> Listing:
    found = [image("python:3.12-slim"), image("debian:12", size_bytes=5, age=timedelta(days=90))]
    return frame(Table(ImageRow, (), tuple(row for one in found for row in rows(one))))


@pytest.fixture
def containers(fake) -> Listing:
    return frame(Table(ContainerRow, (), tuple(map(row, fake.containers()))))


def test_sizes_are_integers_and_times_are_aware(images):
    assert images.size_bytes.dtype == "int64"
    assert images.size_bytes.sum() == 123_456_794
    assert str(images.created.dtype) == "datetime64[us, UTC]"
    old = images[images.created < datetime.now(UTC) - timedelta(days=30)]
    assert list(old.repository) == ["debian"]


def test_what_is_missing_stays_missing(containers):
    assert containers.exit_code.dtype == "Int64"
    assert containers.exit_code.isna().tolist() == [True, False]
    assert containers.finished.isna().tolist() == [True, False]
    assert containers.cpus_limit.tolist()[1] == 0.5
    assert containers.command[0].startswith("python3 -c ")


def test_an_empty_listing_keeps_its_types():
    empty = frame(Table(ContainerRow, (), ()))
    assert len(empty) == 0
    assert str(empty.created.dtype) == "datetime64[us, UTC]"
    assert "container_id" in repr(empty)
    assert empty._repr_html_()


def test_display_is_for_people_also_after_selection(images):
    for shown in (images, images.sort_values("size_bytes").head(2), images[["size_bytes"]]):
        assert "123MB" in repr(shown)
        assert "123MB" in shown._repr_html_()
    html = images._repr_html_()
    assert "3 days ago" in html
    assert str(images.image_id[0]).removeprefix("sha256:")[:12] in html
    assert str(images.image_id[0]) not in html


def test_nothing_missing_is_shown_as_a_word(containers):
    with pd.option_context("display.width", 1000, "display.max_columns", 99):
        for shown in (repr(containers), containers._repr_html_()):
            assert not any(word in shown for word in ("NaN", "NaT", "<NA>", "None"))


def test_hostile_names_stay_text():
    hostile = container("box", "exited", verdict="<img src=x onerror=alert(1)>\x1b[2J")
    found = frame(Table(ContainerRow, (), (row(hostile),)))
    assert "<img" not in found._repr_html_()
    assert "\x1b" not in found._repr_html_()
    with pd.option_context("display.width", 1000, "display.max_columns", 99):
        assert "\x1b" not in repr(found)


def test_inspection_puts_documents_side_by_side():
    found = inspection(
        {"a_id": {"x": {"y": 1}, "l": [1, 2]}, "b_bytes": {"x": {"y": 2}, "z": None}}
    )
    assert list(found.columns) == ["a_id", "b_bytes"]
    assert list(found.index) == ["x.y", "l", "z"]
    assert found.loc["x.y", "b_bytes"] == 2
    assert "[1, 2]" in repr(found)
    assert found._repr_html_()


def test_limits_are_shown_as_they_are_written(containers):
    assert "64 MiB" in containers._repr_html_()
