"""Progress of a pull or push: bars on a terminal, plain lines in a pipe, widgets in a notebook.

Events are folded into a :class:`Transfer` (plain facts), which each view draws in its own way; at
the end every view leaves one line of text. Views may be called from any thread. rich, ipywidgets
and IPython are imported by the view that needs them only.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO

from .tables import counted, plain, size

if TYPE_CHECKING:
    from cellblock_engine import Digest, Progress, TransferEvent

_REFRESH_S = 0.1
_LINE_EVERY_S = 5.0
_WORDS = {
    "resolving": "Resolving",
    "waiting": "Waiting",
    "downloading": "Downloading",
    "extracting": "Extracting",
    "packing": "Packing",
    "uploading": "Uploading",
    "mounted": "Mounted",
    "exists": "Exists",
    "done": "Done",
}
_ENDS = ("done", "exists", "mounted")


@dataclass
class Transfer:
    """What is known of a transfer so far.

    A layer counts twice: downloading, then extracting; or packing, then uploading, where its blob
    is not there yet.
    """

    started: float = field(default_factory=time.monotonic)
    reference: str = ""
    layers: dict[Digest, TransferEvent] = field(default_factory=dict)
    packed: set[Digest] = field(default_factory=set)
    finished: bool = False

    def take(self, event: TransferEvent) -> None:
        """Fold one event in. A size once known is kept when a later event omits it."""
        self.reference = event.reference
        if event.layer is not None:
            self.layers[event.layer] = event
            if event.phase == "packing":
                self.packed.add(event.layer)
        elif event.phase in ("done", "exists"):
            self.finished = True

    def fraction(self) -> float:
        """Return how much is done, 0 to 1; layers count by their sizes where these are known."""
        if self.finished:
            return 1.0
        parts = [
            (event.total_bytes or 1, self.layer_fraction(layer))
            for layer, event in self.layers.items()
        ]
        whole = sum(weight for weight, _ in parts)
        return sum(weight * done for weight, done in parts) / whole if whole else 0.0

    def line(self) -> str:
        """Return the state as one line."""
        name = plain(self.reference)
        if not self.layers:
            return f"{name}: {'up to date' if self.finished else 'resolving'}"
        new = [each for each in self.layers.values() if each.phase not in ("exists", "mounted")]
        total = size(sum(event.total_bytes or 0 for event in new))
        if self.finished:
            took = time.monotonic() - self.started
            fresh = f"{len(new)} new, {total}" if new else "nothing new"
            return f"{name}: {counted(len(self.layers), 'layer')} ({fresh}) in {took:.1f} s"
        done = sum(event.phase in _ENDS for event in self.layers.values())
        return (
            f"{name}: {done} of {counted(len(self.layers), 'layer')}, "
            f"{self.fraction():.0%} of {total}"
        )

    def layer_fraction(self, layer: Digest) -> float:
        """Return how much of one layer is done, 0 to 1."""
        event = self.layers[layer]
        part = min(1.0, event.current_bytes / event.total_bytes) if event.total_bytes else 0.0
        match event.phase:
            case "downloading" | "packing":
                return part / 2
            case "extracting":
                return 0.5 + part / 2
            case "uploading" | "waiting" if layer in self.packed:
                return 0.5 + part / 2
            case "uploading":
                return part
            case "mounted" | "done" | "exists":
                return 1.0
        return 0.0


class _View(ABC):
    """Fold events in, and draw at most ten times a second, one thread at a time."""

    interval_s = _REFRESH_S

    def __init__(self) -> None:
        self.transfer = Transfer()
        self._lock = threading.Lock()
        self._next = 0.0

    def __call__(self, event: TransferEvent) -> None:
        with self._lock:
            self.transfer.take(event)
            now = time.monotonic()
            if now >= self._next:
                self._next = now + self.interval_s
                self.draw()

    @abstractmethod
    def draw(self) -> None:
        """Show the state."""

    @abstractmethod
    def close(self) -> None:
        """Leave one line, or nothing if the transfer did not get to its end."""


class _Lines(_View):
    """A line every few seconds, for pipes and logs."""

    interval_s = _LINE_EVERY_S

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def draw(self) -> None:
        print(self.transfer.line(), file=self._stream, flush=True)

    def close(self) -> None:
        if self.transfer.finished:
            self.draw()


class _Bars(_View):
    """A bar for each layer, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        super().__init__()
        self._console = Console(file=stream)
        self._bars = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]:>16}", markup=False),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[Digest, Any] = {}
        self._bars.start()

    def draw(self) -> None:
        for layer, event in self.transfer.layers.items():
            if layer not in self._tasks:
                self._tasks[layer] = self._bars.add_task("", name=layer.short, amount="", total=1.0)
            self._bars.update(
                self._tasks[layer],
                description=_WORDS[event.phase],
                completed=self.transfer.layer_fraction(layer),
                amount=_amount(event),
            )

    def close(self) -> None:
        self._bars.stop()
        if self.transfer.finished:
            self._console.print(self.transfer.line(), markup=False, highlight=False, soft_wrap=True)


def _amount(event: TransferEvent) -> str:
    if event.total_bytes is None:
        return size(event.current_bytes) if event.current_bytes else ""
    if event.phase == "waiting" or event.phase in _ENDS:
        return size(event.total_bytes)
    return f"{size(event.current_bytes)}/{size(event.total_bytes)}"


class _Place:
    """An output of the cell whose content can be replaced."""

    def __init__(self, words: str, widget: Mapping[str, object] | None = None) -> None:
        from IPython.display import display  # noqa: PLC0415

        bundle = {**(widget or {}), "text/plain": words}
        self._handle: Any = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def say(self, words: str) -> None:
        self._handle.update({"text/plain": words}, raw=True)


class _Text(_View):
    """One line of output that is updated in place, for front ends without widgets."""

    def __init__(self) -> None:
        super().__init__()
        self._place = _Place("resolving")

    def draw(self) -> None:
        self._place.say(self.transfer.line())

    def close(self) -> None:
        self._place.say(self.transfer.line() if self.transfer.finished else "")


class _Widgets(_View):
    """A bar for each layer as ipywidgets, which close into one line of text.

    A widget in a saved notebook reopens broken, hence the text. A front end without widgets shows
    the text that goes with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ipywidgets: Any = import_module("ipywidgets")
        self._box = self._ipywidgets.VBox()
        self._bars: dict[Digest, tuple[Any, Any]] = {}
        self._place = _Place("resolving", self._box._repr_mimebundle_())

    def draw(self) -> None:
        for layer, event in self.transfer.layers.items():
            bar, label = self._bars.get(layer) or self._add(layer)
            bar.value = self.transfer.layer_fraction(layer)
            label.value = f"{_WORDS[event.phase]} {_amount(event)}"

    def _add(self, layer: Digest) -> tuple[Any, Any]:
        bar = self._ipywidgets.FloatProgress(0.0, min=0.0, max=1.0, description=layer.short)
        label = self._ipywidgets.Label()
        self._bars[layer] = bar, label
        self._box.children = (*self._box.children, self._ipywidgets.HBox([bar, label]))
        return bar, label

    def close(self) -> None:
        self._place.say(self.transfer.line() if self.transfer.finished else "")
        for widget in (self._box, *self._box.children, *self._parts()):
            widget.layout.close()
            widget.close()

    def _parts(self) -> Iterator[Any]:
        for pair in self._bars.values():
            for widget in pair:
                widget.style.close()
                yield widget


@contextmanager
def _shown(view: _View) -> Iterator[Progress]:
    """Give a view to a transfer, and close it at the end of the block."""
    try:
        yield view
    finally:
        view.close()


def terminal(stream: TextIO) -> AbstractContextManager[Progress]:
    """Show a transfer with bars on a terminal, in lines in a pipe."""
    return _shown(_Bars(stream) if stream.isatty() else _Lines(stream))


def notebook() -> AbstractContextManager[Progress]:
    """Show a transfer with widgets, in the cell that an IPython kernel executes."""
    return _shown(_Widgets())


def headless() -> AbstractContextManager[Progress]:
    """Show a transfer as one line that changes, in the outputs of a cell that nobody watches."""
    return _shown(_Text())
