"""What a kernel writes beside its channels: for logs and terminals, so without commands to them."""

from __future__ import annotations

import codecs
import os
from contextlib import suppress

from ..outputs.text import TextCleaner, one_line

_KEPT = 2048
_MOST_SAID = 300


class Aside:
    """One output of a kernel, passed on to the descriptor ``sink`` as it comes."""

    def __init__(self, sink: int) -> None:
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._cleaner = TextCleaner()
        self._last = ""

    def feed(self, data: bytes) -> None:
        """Pass on what can be shown; nothing is the end, and what was held back comes out.

        A sink that takes nothing any more is no error, as with a local kernel.
        """
        text = self._cleaner.feed(self._decoder.decode(data, final=not data))
        if not data:
            text += self._cleaner.finish()
        self._last = (self._last + text)[-_KEPT:]
        with suppress(OSError):
            os.write(self._sink, text.encode())

    def last_line(self) -> str:
        """Return the last line of it, in printable characters; nothing if there is none."""
        lines = self._last.strip().splitlines()
        return one_line(lines[-1], _MOST_SAID) if lines else ""
