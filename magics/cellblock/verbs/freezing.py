"""freeze: the Python of a notebook that is in no container, as an image."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cellblock_engine import FreezeRequest, InvalidInput, format_bytes

from ..tables import plain
from .commitment import epoch_s
from .common import JSON
from .declaration import Argument, Call, Verb
from .outcome import Acknowledged, Facts

if TYPE_CHECKING:
    from cellblock_engine import FreezeEvent

    from ..progress import Part


@dataclass
class Freezing:
    """What is known so far of an environment that becomes an image."""

    started: float = field(default_factory=time.monotonic)
    event: FreezeEvent | None = None
    finished: bool = False

    def take(self, event: FreezeEvent) -> None:
        """Note how far it is."""
        self.event, self.finished = event, not event.layer

    def line(self) -> str:
        """Return the state as one line."""
        if self.event is None:
            return "looking at the environment"
        name, total = plain(self.event.reference), format_bytes(self.event.total_bytes)
        if self.finished:
            return f"{name}: {total} in {time.monotonic() - self.started:.1f} s"
        return f"{name}: {self.event.layer}, {self._fraction():.0%} of {total}"

    def parts(self) -> Mapping[object, Part]:
        """Return the whole as one part."""
        if self.event is None or self.finished:
            return {}
        from ..progress import Part  # noqa: PLC0415 - loaded by whoever shows this

        done, total = map(format_bytes, (self.event.current_bytes, self.event.total_bytes))
        return {"": Part(self.event.layer, "Packing", self._fraction(), f"{done} / {total}")}

    def _fraction(self) -> float:
        event = self.event
        return event.current_bytes / event.total_bytes if event and event.total_bytes else 0.0


def freeze(call: Call) -> Facts | Acknowledged:
    """Make an image of a Python's environment, or tell what would be in it; return what it is."""
    given = call.arguments
    project = None if given.project is None else Path(given.project)
    request = FreezeRequest(given.python, project, epoch_s(call))
    if given.explain:
        return Acknowledged(call.engine.explain_freeze(request).lines())
    if given.image is None:
        raise InvalidInput("freeze makes an image: give a name for it, or --explain")
    with call.progress(Freezing()) as progress:
        made = call.engine.freeze(given.image, request, progress=progress)
    facts: dict[str, object] = {"image": str(made.id)}
    facts |= {
        layer.name: f"{format_bytes(layer.size_bytes)}, {layer.summary}"
        for layer in made.frozen_layers
    }
    if made.missing:
        facts["not found"] = ", ".join(sorted(made.missing))
    if made.left_out:
        facts["left out"] = "; ".join(made.left_out)
    return Facts(facts, "json" if given.json else "text")


VERBS = (
    Verb(
        "freeze",
        "Make an image of this Python and its packages",
        (
            Argument(
                ("--python",),
                "another than the one that runs this: a path, or a name on PATH",
                metavar="PYTHON",
            ),
            Argument(
                ("--project",),
                "a folder that goes in too, and that its commands start in",
                metavar="DIR",
            ),
            Argument(("--explain",), "tell what would be in the image, and make none", "flag"),
            JSON,
            Argument(("image",), "a name for the image; --explain needs none", "optional", "IMAGE"),
        ),
        freeze,
    ),
)
