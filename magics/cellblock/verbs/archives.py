"""save, load: images in files."""

from __future__ import annotations

from pathlib import Path

from .declaration import Argument, Call, Verb
from .outcome import Acknowledged

_STREAM = "-"


def save(call: Call) -> Acknowledged:
    """Write images into an archive; there is nothing to say."""
    name = call.arguments.output
    target = call.asking.writer() if name == _STREAM else Path(name)
    call.engine.save(call.arguments.images, target)
    return Acknowledged(())


def load(call: Call) -> Acknowledged:
    """Add the images of an archive; a line for each name, or id where there is none."""
    name = call.arguments.input
    loaded = call.engine.load(call.asking.reader() if name == _STREAM else Path(name))
    lines = (
        f"Loaded image: {image.references[0].familiar}"
        if image.references[0].tag
        else f"Loaded image ID: {image.id}"
        for image in loaded
    )
    return Acknowledged(tuple(lines))


VERBS = (
    Verb(
        "save",
        "Write images into an archive, which Docker reads too",
        (
            Argument(("-o", "--output"), "a file, instead of stdout", metavar="FILE", default="-"),
            Argument(("images",), "references or ids", "some", "IMAGE", subject="image"),
        ),
        save,
    ),
    Verb(
        "load",
        "Add the images of an archive, Docker's or OCI's",
        (
            Argument(
                ("-i", "--input"),
                "a file or an OCI layout's directory, instead of stdin",
                metavar="FILE",
                default="-",
            ),
        ),
        load,
    ),
)
