"""How a notebook shows what comes out of a container: in order, reduced, never evaluated."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cellblock import cells
from cellblock.cells import new_container, run_cell
from cellblock_engine import RunRequest
from cellblock_kernel import CellFailed, CellResult, Display, Error, Result, Stream


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
