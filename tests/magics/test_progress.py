"""Progress of a pull, and of a preparation, on each surface."""

from __future__ import annotations

import io
import threading

import pytest

from cellblock import progress
from cellblock_engine import Digest, TransferEvent
from cellblock_kernel import Preparation

LAYERS = [Digest.of(bytes([number])) for number in range(3)]


def events(layers=LAYERS):
    yield TransferEvent("img:1", None, "resolving")
    for layer in layers:
        yield TransferEvent("img:1", layer, "waiting", 0, 1000)
    for done in (0, 500, 1000):
        for layer in layers:
            yield TransferEvent("img:1", layer, "downloading", done, 1000)
            yield TransferEvent("img:1", layer, "extracting", done, 1000)
    for layer in layers:
        yield TransferEvent("img:1", layer, "done", 1000, 1000)
    yield TransferEvent("img:1", None, "done")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_share_never_falls_while_layers_advance():
    pull = progress.Transfer()
    shares = []
    for event in events(LAYERS[:1]):
        if event.layer is None or event.phase != "extracting":
            pull.take(event)
            shares.append(pull.fraction())
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_a_layer_that_is_packed_and_sent_advances_once():
    push = progress.Transfer()
    shares = []
    for phase, current, total in (
        ("packing", 0, 3000),
        ("packing", 3000, 3000),
        ("waiting", 0, 1000),
        ("uploading", 500, 1000),
        ("done", 1000, 1000),
    ):
        push.take(TransferEvent("img:1", LAYERS[0], phase, current, total))
        shares.append(push.fraction())
    assert shares == [0.0, 0.5, 0.5, 0.75, 1.0]
    push.take(TransferEvent("img:1", LAYERS[1], "uploading", 250, 1000))
    assert push.layer_fraction(LAYERS[1]) == 0.25
    push.take(TransferEvent("img:1", LAYERS[1], "mounted", 1000, 1000))
    push.take(TransferEvent("img:1", None, "done"))
    assert push.line().startswith("img:1: 2 layers (1 new, 1kB) in ")


def test_layers_weigh_by_their_size():
    pull = progress.Transfer()
    pull.take(TransferEvent("img:1", LAYERS[0], "done", 900, 900))
    pull.take(TransferEvent("img:1", LAYERS[1], "waiting", 0, 100))
    assert pull.fraction() == pytest.approx(0.9)
    assert pull.line() == "img:1: 1 of 2 layers, 90% of 1kB"


def test_unknown_totals_do_no_harm():
    pull = progress.Transfer()
    pull.take(TransferEvent("img:1", LAYERS[0], "downloading", 10, None))
    assert pull.fraction() == 0.0
    assert "1 layer" in pull.line()


def test_a_pipe_gets_few_lines():
    stream = io.StringIO()
    with progress.terminal(stream) as report:
        for event in events():
            report(event)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "img:1: resolving"
    assert lines[1].startswith("img:1: 3 layers (3 new, 3kB) in ")


def test_what_is_here_already_is_said_so():
    stream = io.StringIO()
    with progress.terminal(stream) as report:
        for layer in LAYERS:
            report(TransferEvent("img:1", layer, "exists", 1000, 1000))
        report(TransferEvent("img:1", None, "done"))
    assert "3 layers (nothing new)" in stream.getvalue().splitlines()[-1]


def test_a_terminal_is_left_with_one_line():
    stream = Terminal()
    with progress.terminal(stream) as report:
        for event in events():
            report(event)
    assert "img:1: 3 layers (3 new, 3kB) in " in stream.getvalue().splitlines()[-1]
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is shown again


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["pipe", "terminal"])
def test_a_failed_pull_leaves_no_claim(stream):
    def fail() -> None:
        with progress.terminal(stream) as report:
            report(TransferEvent("img:1", LAYERS[0], "downloading", 1, 1000))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert "1 layer (" not in stream.getvalue()


PHASES = ("installing", "committing", "trying", "done")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["pipe", "terminal"])
def test_a_preparation_is_left_with_one_line(stream):
    with progress.terminal(stream, progress.Preparing()) as report:
        for phase in PHASES:
            report(Preparation("img:1", phase))
    last = stream.getvalue().splitlines()[-1]
    assert "img:1: ipykernel installed, once for all, in " in last


def test_a_preparation_advances_by_steps():
    work = progress.Preparing()
    assert (work.line(), work.parts(), work.finished) == ("preparing", {}, False)
    shown = []
    for phase in PHASES[:-1]:
        work.take(Preparation("img\x1b[2J", phase))
        (part,) = work.parts().values()
        shown.append((round(part.done, 2), part.amount))
        assert work.line().isprintable()
    assert shown == [(0.0, "1 of 3"), (0.33, "2 of 3"), (0.67, "3 of 3")]


def test_hostile_references_cannot_steer_the_terminal():
    stream = io.StringIO()
    with progress.terminal(stream) as report:
        report(TransferEvent("img\x1b[2J", None, "resolving"))
    assert "\x1b" not in stream.getvalue()


def test_any_thread_may_report():
    stream = Terminal()
    with progress.terminal(stream) as report:
        threads = [
            threading.Thread(target=lambda: [report(event) for event in events()]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
    assert "3 layers" in stream.getvalue().splitlines()[-1]


@pytest.fixture
def outputs(monkeypatch):
    """What a cell displays: the bundle of each display id, and how often it was set."""
    from IPython.core import display_functions

    shown: dict[str, list[dict[str, str]]] = {}

    def publish(data, metadata=None, **options):
        shown.setdefault(options["transient"]["display_id"], []).append(data)

    monkeypatch.setattr(display_functions, "publish_display_data", publish)
    return shown


@pytest.mark.parametrize("surface", ["notebook", "headless"])
def test_a_notebook_is_left_with_one_line_of_text(surface, outputs):
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.instance()
    with getattr(progress, surface)() as report:
        for event in events():
            report(event)
    (bundles,) = outputs.values()
    first, last = bundles[0], bundles[-1]
    widget = "application/vnd.jupyter.widget-view+json"
    assert (widget in first) == (surface == "notebook")
    assert list(last) == ["text/plain"]
    assert last["text/plain"].startswith("img:1: 3 layers (3 new, 3kB) in ")
    assert len(bundles) < 5


@pytest.mark.parametrize("surface", ["notebook", "headless"])
def test_a_notebook_shows_a_preparation_that_failed_as_nothing(surface, outputs):
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.instance()
    with getattr(progress, surface)(progress.Preparing()) as report:
        report(Preparation("img:1", "installing"))
    (bundles,) = outputs.values()
    assert bundles[-1] == {"text/plain": ""}


def test_widgets_are_closed(outputs):
    import ipywidgets
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.instance()
    before = len(ipywidgets.widgets.widget._instances)
    with progress.notebook() as report:
        for event in events():
            report(event)
        assert len(ipywidgets.widgets.widget._instances) > before
    assert len(ipywidgets.widgets.widget._instances) == before
