"""freeze: the Python of a notebook that is in no container, as an image."""

from __future__ import annotations

from pathlib import Path

from cellblock_engine import FreezeRequest, InvalidInput, format_bytes

from .common import JSON
from .declaration import Argument, Call, Verb
from .outcome import Acknowledged, Facts


def freeze(call: Call) -> Facts | Acknowledged:
    """Make an image of a Python's environment, or tell what would be in it; return what it is."""
    given = call.arguments
    project = None if given.project is None else Path(given.project)
    request = FreezeRequest(given.python, project)
    if given.explain:
        return Acknowledged(call.engine.explain_freeze(request).lines())
    if given.image is None:
        raise InvalidInput("freeze makes an image: give a name for it, or --explain")
    made = call.engine.freeze(given.image, request)
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
            Argument(("image",), "a name for the image", "optional", "IMAGE"),
        ),
        freeze,
    ),
)
