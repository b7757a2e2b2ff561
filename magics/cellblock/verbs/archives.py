"""save, load, export, import: images, and the files of containers, in archives."""

from __future__ import annotations

from pathlib import Path

from cellblock_engine import ImportRequest

from .commitment import CHANGE, MESSAGE, epoch_s
from .common import CONTAINER
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


def export(call: Call) -> Acknowledged:
    """Write the files of a container into an archive; there is nothing to say."""
    name = call.arguments.output
    target = call.asking.writer() if name == _STREAM else Path(name)
    call.engine.export(call.arguments.container, target)
    return Acknowledged(())


def import_(call: Call) -> Acknowledged:
    """Make an image of an archive of files; the line is the image's id."""
    arguments = call.arguments
    request = ImportRequest(
        comment=arguments.message,
        changes=tuple(arguments.change),
        platform=arguments.platform,
        epoch_s=epoch_s(call),
    )
    source = call.asking.reader() if arguments.file == _STREAM else Path(arguments.file)
    return Acknowledged((str(call.engine.import_image(source, arguments.image, request).id),))


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
    Verb(
        "export",
        "Write the files that a container shows into an archive",
        (
            Argument(("-o", "--output"), "a file, instead of stdout", metavar="FILE", default="-"),
            CONTAINER,
        ),
        export,
    ),
    Verb(
        "import",
        "Make an image of one layer of the files in an archive",
        (
            CHANGE,
            MESSAGE,
            Argument(
                ("--platform",),
                "the one that the files are for (this machine's)",
                metavar="OS/ARCH[/VARIANT]",
            ),
            Argument(("file",), "a tar archive, compressed or not, or - for stdin", metavar="FILE"),
            Argument(
                ("image",),
                "a name for the image; without one it has its id only",
                "optional",
                "IMAGE",
            ),
        ),
        import_,
    ),
)
