"""Progress of long work: bars on a terminal, plain lines in a pipe, widgets in a notebook.

Events are folded into a :class:`Work` (plain facts: a transfer, or an image made ready for
kernels), which each view draws in its own way; at the end every view leaves one line of text. Views
may be called from any thread. rich, ipywidgets and IPython are imported by the view that needs
them only.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from .tables import counted, plain, size

if TYPE_CHECKING:
    from cellblock_engine import Digest, TransferEvent
    from cellblock_kernel import Preparation

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
_STEPS = {
    "installing": "installing ipykernel",
    "committing": "keeping what was installed",
    "trying": "trying it",
}


@dataclass(frozen=True)
class Part:
    """A part of some work, as a bar shows it; ``done`` is 0 to 1."""

    name: str
    doing: str
    done: float
    amount: str


class Work(Protocol):
    """What is known of some work so far."""

    finished: bool

    def take(self, event: Any) -> None:  # noqa: ANN401 - each work has events of its own
        """Fold one event in."""

    def line(self) -> str:
        """Return the state as one line."""

    def parts(self) -> Mapping[object, Part]:
        """Return the parts that are known so far."""


@dataclass
class Transfer:
    """What is known of a pull or push so far.

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
        if not self.reference:
            return "resolving"
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

    def parts(self) -> Mapping[object, Part]:
        """Return the layers."""
        return {
            layer: Part(
                layer.short, _WORDS[event.phase], self.layer_fraction(layer), _amount(event)
            )
            for layer, event in self.layers.items()
        }

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


@dataclass
class Preparing:
    """What is known so far of an image that is made ready for kernels."""

    started: float = field(default_factory=time.monotonic)
    step: Preparation | None = None
    finished: bool = False

    def take(self, event: Preparation) -> None:
        """Note the step that begins."""
        self.step = event
        self.finished = event.phase == "done"

    def line(self) -> str:
        """Return the state as one line."""
        if self.step is None:
            return "preparing"
        if self.finished:
            took = time.monotonic() - self.started
            return f"{plain(self.step.image)}: ipykernel installed, once for all, in {took:.1f} s"
        return f"{plain(self.step.image)}: {_STEPS[self.step.phase]}"

    def parts(self) -> Mapping[object, Part]:
        """Return the steps as one part."""
        if self.step is None or self.finished:
            return {}
        at = list(_STEPS).index(self.step.phase)
        doing = self.step.phase.capitalize()
        return {"": Part("ipykernel", doing, at / len(_STEPS), f"{at + 1} of {len(_STEPS)}")}


class _View(ABC):
    """Fold events in, and draw at most ten times a second, one thread at a time."""

    interval_s = _REFRESH_S

    def __init__(self, work: Work) -> None:
        self.work = work
        self._lock = threading.Lock()
        self._next = 0.0

    def __call__(self, event: Any) -> None:  # noqa: ANN401 - its work knows what it is
        with self._lock:
            self.work.take(event)
            now = time.monotonic()
            if now >= self._next:
                self._next = now + self.interval_s
                self.draw()

    @abstractmethod
    def draw(self) -> None:
        """Show the state."""

    @abstractmethod
    def close(self) -> None:
        """Leave one line, or nothing if the work did not get to its end."""


class _Lines(_View):
    """A line every few seconds, for pipes and logs."""

    interval_s = _LINE_EVERY_S

    def __init__(self, work: Work, stream: TextIO) -> None:
        super().__init__(work)
        self._stream = stream

    def draw(self) -> None:
        print(self.work.line(), file=self._stream, flush=True)

    def close(self) -> None:
        if self.work.finished:
            self.draw()


class _Bars(_View):
    """A bar for each part, on a terminal."""

    def __init__(self, work: Work, stream: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        super().__init__(work)
        self._console = Console(file=stream)
        self._bars = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]:>16}", markup=False),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[object, Any] = {}
        self._bars.start()

    def draw(self) -> None:
        for key, part in self.work.parts().items():
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task("", name=part.name, amount="", total=1.0)
            self._bars.update(
                self._tasks[key],
                description=part.doing,
                completed=part.done,
                amount=part.amount,
            )

    def close(self) -> None:
        self._bars.stop()
        if self.work.finished:
            self._console.print(self.work.line(), markup=False, highlight=False, soft_wrap=True)


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

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._place = _Place(work.line())

    def draw(self) -> None:
        self._place.say(self.work.line())

    def close(self) -> None:
        self._place.say(self.work.line() if self.work.finished else "")


class _Widgets(_View):
    """A bar for each part as ipywidgets, which close into one line of text.

    A widget in a saved notebook reopens broken, hence the text. A front end without widgets shows
    the text that goes with them.
    """

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._ipywidgets: Any = import_module("ipywidgets")
        self._box = self._ipywidgets.VBox()
        self._bars: dict[object, tuple[Any, Any]] = {}
        self._place = _Place(work.line(), self._box._repr_mimebundle_())

    def draw(self) -> None:
        for key, part in self.work.parts().items():
            bar, label = self._bars.get(key) or self._add(key, part.name)
            bar.value = part.done
            label.value = f"{part.doing} {part.amount}"

    def _add(self, key: object, name: str) -> tuple[Any, Any]:
        bar = self._ipywidgets.FloatProgress(0.0, min=0.0, max=1.0, description=name)
        label = self._ipywidgets.Label()
        self._bars[key] = bar, label
        self._box.children = (*self._box.children, self._ipywidgets.HBox([bar, label]))
        return bar, label

    def close(self) -> None:
        self._place.say(self.work.line() if self.work.finished else "")
        for widget in (self._box, *self._box.children, *self._parts()):
            widget.layout.close()
            widget.close()

    def _parts(self) -> Iterator[Any]:
        for pair in self._bars.values():
            for widget in pair:
                widget.style.close()
                yield widget


Shown = AbstractContextManager[Callable[[Any], None]]
"""Takes the events of a work, from any thread, until the block ends."""


@contextmanager
def _shown(view: _View) -> Iterator[Callable[[Any], None]]:
    """Give a view to some work, and close it at the end of the block."""
    try:
        yield view
    finally:
        view.close()


def terminal(stream: TextIO, work: Work | None = None) -> Shown:
    """Show work, by default a pull, with bars on a terminal, in lines in a pipe."""
    work = work or Transfer()
    return _shown(_Bars(work, stream) if stream.isatty() else _Lines(work, stream))


def notebook(work: Work | None = None) -> Shown:
    """Show work with widgets, in the cell that an IPython kernel executes."""
    return _shown(_Widgets(work or Transfer()))


def headless(work: Work | None = None) -> Shown:
    """Show work as one line that changes, in the outputs of a cell that nobody watches."""
    return _shown(_Text(work or Transfer()))
