"""A cell of a notebook, run in a container of its own and shown as its outputs come.

What comes from inside is not trusted: text goes to the cell's streams, and of what is displayed
only plain text and checked images are published, as data. Nothing is handed to IPython's display
classes, which read files and run scripts for whoever names them.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from cellblock_kernel import (
    CellResult,
    Display,
    Error,
    Event,
    Result,
    Stream,
)
from cellblock_kernel import run_cell as run_in_container

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from cellblock_engine import Engine, RunRequest

_IMAGES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
_MAX_PIXELS = 20_000


def run_cell(
    engine: Engine, request: RunRequest, source: str, shell: InteractiveShell
) -> CellResult:
    """Run a cell's text in a new container, show its outputs in order, return how it ended.

    Raises what :func:`cellblock_kernel.run_cell` raises; the traceback of a cell that failed has
    been shown by then, so that the exception is one line.
    """
    screen = _Screen(shell)
    try:
        return run_in_container(engine, request, source, screen.show)
    finally:
        screen.flush()


class _Screen:
    """The outputs of the notebook's current cell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._last: TextIO | None = None

    def show(self, event: Event) -> None:
        """Show one event behind those before it."""
        match event:
            case Stream(name, text):
                self._write(sys.stdout if name == "stdout" else sys.stderr, text)
            case Display(bundle, metadata) | Result(bundle, metadata):
                self.flush()
                self._publish(bundle, metadata)
            case Error(traceback=traceback):
                self._write(sys.stderr, traceback)

    def flush(self) -> None:
        """Let the text written last be seen before what follows."""
        if self._last is not None:
            self._last.flush()

    def _write(self, stream: TextIO, text: str) -> None:
        if stream is not self._last:
            self.flush()
            self._last = stream
        stream.write(text)
        if not text.endswith("\n") or stream.isatty():
            stream.flush()

    def _publish(self, bundle: Mapping[str, str | bytes], metadata: Mapping[str, object]) -> None:
        data = reduce_bundle(bundle)
        self._shell.display_pub.publish(data=data, metadata=reduce_metadata(metadata, data))


def reduce_bundle(bundle: Mapping[str, str | bytes]) -> dict[str, str]:
    """Return what a notebook shows safely: plain text, and images that are what they say.

    Images are base64, as notebooks keep them. A bundle of which nothing is left says so.
    """
    shown: dict[str, str] = {}
    text = bundle.get("text/plain")
    if isinstance(text, str):
        shown["text/plain"] = text
    for mime, magic in _IMAGES.items():
        raw = _decoded(bundle.get(mime, b""))
        if raw.startswith(magic):
            shown[mime] = base64.b64encode(raw).decode("ascii")
    return shown or {"text/plain": f"<not shown: {', '.join(sorted(bundle)) or 'nothing'}>"}


def _decoded(value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def reduce_metadata(metadata: Mapping[str, object], data: Mapping[str, str]) -> dict[str, object]:
    """Return the sizes in pixels that ``metadata`` gives for the images of ``data``."""
    reduced: dict[str, object] = {}
    for mime in _IMAGES.keys() & data.keys():
        given = metadata.get(mime)
        if isinstance(given, dict):
            reduced[mime] = {
                side: given[side]
                for side in ("width", "height")
                if type(given.get(side)) is int and 0 < given[side] <= _MAX_PIXELS
            }
    return reduced
