"""How a notebook shows what comes out of a container: in order, reduced, never evaluated."""

from __future__ import annotations

import base64
import sys
from types import SimpleNamespace

import pytest

from cellblock import cells
from cellblock.bundles import reduce_bundle, reduce_metadata, trusted_bundle
from cellblock.cells import new_container, run_cell
from cellblock_engine import RunRequest
from cellblock_kernel import CellFailed, CellResult, Display, Error, Result, Stream

PNG = b"\x89PNG\r\n\x1a\n rest"
JPEG = b"\xff\xd8\xff rest"


class Notebook:
    """Records outputs in the order in which they would reach the front end."""

    def __init__(self) -> None:
        self.outputs: list = []
        self.user_ns: dict = {}
        self.display_pub = SimpleNamespace(publish=self.publish)
        self.shown: list = []
        self.displayhook = SimpleNamespace(update_user_ns=self.shown.append)

    def publish(self, *, data, metadata, transient, update) -> None:
        self.outputs.append((data, metadata))

    def stream(self, name: str) -> SimpleNamespace:
        def write(text: str) -> None:
            held.append(text)

        def flush() -> None:
            if held:
                self.outputs.append((name, "".join(held)))
                held.clear()

        held: list[str] = []
        return SimpleNamespace(write=write, flush=flush, isatty=lambda: False)


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


ENDED_WELL = CellResult("id", 0.1, None)


def play(monkeypatch, notebook, events, end=ENDED_WELL):
    """Run a cell whose container would send these events."""

    def run_in_container(engine, request, source, on_event, *, given, wanted, ask):
        for event in events:
            on_event(event)
        if isinstance(end, BaseException):
            raise end
        return end

    monkeypatch.setattr(cells, "run_in_container", run_in_container)
    monkeypatch.setattr(sys, "stdout", notebook.stream("stdout"))
    monkeypatch.setattr(sys, "stderr", notebook.stream("stderr"))
    return run_cell(new_container(None, RunRequest()), "source", notebook)


def test_order_is_kept_between_streams_and_displays(monkeypatch, notebook):
    events = [
        Stream("stdout", "a\n"),
        Stream("stderr", "b\n"),
        Stream("stdout", "c\n"),
        Stream("stdout", "d\n"),
        Display({"text/plain": "1"}),
        Stream("stdout", "e"),
        Result({"text/plain": "2"}),
    ]
    result = play(monkeypatch, notebook, events)
    assert notebook.outputs == [
        ("stdout", "a\n"),
        ("stderr", "b\n"),
        ("stdout", "c\nd\n"),
        ({"text/plain": "1"}, {}),
        ("stdout", "e"),
        ({"text/plain": "2"}, {}),
    ]
    assert result.container_id == "id"


def test_a_failure_shows_the_traceback_then_raises(monkeypatch, notebook):
    failure = CellFailed("ZeroDivisionError", "division by zero")
    with pytest.raises(CellFailed) as raised:
        play(monkeypatch, notebook, [Error("ZeroDivisionError", "d", "Traceback...\n")], failure)
    assert raised.value is failure
    assert notebook.outputs == [("stderr", "Traceback...\n")]


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
