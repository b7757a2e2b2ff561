"""Bundles of MIME types: what is shown of them, what is named as lost."""

from __future__ import annotations

import base64

import pytest

from cellblock_kernel import Losses, reduce_bundle, reduce_metadata, trusted_bundle

PNG = b"\x89PNG\r\n\x1a\n rest"
JPEG = b"\xff\xd8\xff rest"


@pytest.mark.parametrize(
    ("bundle", "shown"),
    [
        ({"text/plain": "x"}, {"text/plain": "x"}),
        ({"text/plain": "x", "text/html": "<script>y"}, {"text/plain": "x"}),
        ({"text/html": b"<b>", "a/b": b""}, {"text/plain": "<not shown: a/b, text/html>"}),
        ({"text/html": "<i onclick=a()>b"}, {"text/html": "<i>b</i>"}),
        ({"application/json": '{"a": [1]}'}, {"application/json": {"a": [1]}}),
        ({"text/plain": "x", "application/json": "[" * 10**6}, {"text/plain": "x"}),
        ({"text/plain": "<M object>", "text/markdown": "*m*\x1b]0;t\x07"}, {"text/plain": "*m*"}),
        ({"text/plain": "1/x", "text/latex": "$\\frac1x$"}, {"text/plain": "1/x"}),
        ({}, {"text/plain": "<not shown: nothing>"}),
        ({"image/png": PNG}, {"image/png": base64.b64encode(PNG).decode()}),
        (
            {"image/png": base64.encodebytes(PNG).decode()},
            {"image/png": base64.b64encode(PNG).decode()},
        ),
        ({"image/jpeg": JPEG}, {"image/jpeg": base64.b64encode(JPEG).decode()}),
        ({"text/plain": "x", "image/png": b"<svg onload=...>"}, {"text/plain": "x"}),
        ({"text/plain": "x", "image/png": "javascript:alert(1)"}, {"text/plain": "x"}),
        ({"text/plain": "x", "image/png": "é"}, {"text/plain": "x"}),
        ({"text/plain": "x", "image/svg+xml": "no <svg>"}, {"text/plain": "x"}),
        ({"text/plain": "x", "application/javascript": "alert(1)"}, {"text/plain": "x"}),
        ({"text/plain": b"bytes"}, {"text/plain": "<not shown: text/plain>"}),
    ],
)
@pytest.mark.attack(58)
def test_only_what_cannot_act_is_shown(bundle, shown):
    assert reduce_bundle(bundle).data == shown


@pytest.mark.parametrize(
    ("bundle", "lost"),
    [
        ({"text/plain": "x"}, []),
        ({"text/html": "<table class=dataframe>"}, []),
        ({"text/html": "<p onclick=x()>"}, ["scripts"]),
        ({"text/html": "<img src='http://e/x'>"}, ["remote images"]),
        ({"application/vnd.plotly.v1+json": "{}", "text/html": "<script>"}, ["scripts", "Plotly"]),
        ({"application/vnd.vegalite.v5+json": "{}"}, ["Altair"]),
        ({"text/plain": "<M>", "text/markdown": "*m*"}, ["Markdown (shown as text)"]),
        ({"text/latex": "$m$"}, ["LaTeX (shown as text)"]),
        ({"application/javascript": "a()"}, ["JavaScript"]),
        ({"a/b": "c"}, ["a/b"]),
    ],
)
def test_what_is_lost_is_named(bundle, lost):
    assert reduce_bundle(bundle).lost == lost


def test_trusted_output_passes_but_for_widgets():
    shown = trusted_bundle(
        {
            "text/html": "<script>",
            "application/vnd.plotly.v1+json": '{"data": []}',
            "image/png": PNG,
            "application/vnd.jupyter.widget-view+json": '{"model_id": "x"}',
        }
    )
    assert shown.data == {
        "text/html": "<script>",
        "application/vnd.plotly.v1+json": {"data": []},
        "image/png": base64.b64encode(PNG).decode(),
    }
    assert shown.lost == ["a widget"]


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({}, {}),
        ({"image/png": {"width": 300, "height": 20}}, {"image/png": {"width": 300, "height": 20}}),
        ({"image/png": {"width": "1' onload='x"}}, {"image/png": {}}),
        ({"image/png": {"width": True, "height": 10**9}}, {"image/png": {}}),
        ({"image/png": ["width"]}, {}),
        ({"isolated": True, "text/html": {"isolated": True}}, {}),
    ],
)
def test_metadata_is_reduced_to_sizes(metadata, kept):
    data = {"text/plain": "x", "image/png": "..."}
    assert reduce_metadata(metadata, data) == kept


@pytest.mark.parametrize(
    "value",
    ["NaN", "[Infinity]", '"\\ud800"', "[" * 200 + "]" * 200, "[" + "0," * 100_000 + "0]", "{"],
)
@pytest.mark.attack(58)
def test_json_that_a_front_end_cannot_take_is_left_out(value):
    assert reduce_bundle({"text/plain": "x", "application/json": value}).data == {"text/plain": "x"}


@pytest.mark.attack(63)
def test_names_of_types_are_one_line():
    reduced = reduce_bundle({"a\x1b]0;t\x07\n" + "b" * 1000: "x"})
    shown = reduced.data["text/plain"] + "".join(reduced.lost)
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert len(shown) < 200


def test_losses_are_one_line():
    losses = Losses()
    assert list(losses.lines("so")) == []
    for number in range(2000):
        losses.add([f"kind {number}"])
    (line,) = losses.lines("so")
    assert line.startswith("cellblock: reduced for safety: kind 0, kind 1, ")
    assert line.endswith(" kind 7 and 92 more kinds; so\n")
