"""What a cell sends, on its way to who shows it: decoded, cleaned, in order, and counted.

Everything that comes in is untrusted. This module reads no descriptor and knows no notebook.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..outputs.text import TextCleaner, clean, colourless, one_line
from .events import Clear, Display, Error, Event, InputRequest, Result, Stream, StreamName

STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")
_CHANGES = 10  # times the limit of outputs: a long animation


@dataclass(frozen=True)
class OutputLimits:
    """How much a cell may send in one frame and in all, and how many outputs it may show.

    An output is what a notebook keeps as one: a display, or a stretch of text on one stream.
    ``variable_bytes`` bounds the variables that travel, in and out each; they are no output.
    """

    frame_bytes: int = 64 << 20
    total_bytes: int = 256 << 20
    outputs: int = 10_000
    variable_bytes: int = 1 << 30


class Output:
    """The output of one cell. ``result`` is the last value it showed, ``error`` its last error."""

    def __init__(
        self,
        on_event: Callable[[Event], None],
        on_question: Callable[[InputRequest], None],
        most: int,
    ) -> None:
        """Hand on at most ``most`` outputs to ``on_event``, and questions to ``on_question``."""
        self.result: Result | None = None
        self.error: Error | None = None
        self._on_event, self._on_question, self._most = on_event, on_question, most
        self._outputs = self._changes = 0
        self._left_out = 0
        self._stretch: StreamName | None = None  # the stream of the output shown last
        self._cleaners = {name: TextCleaner() for name in STREAMS}
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in STREAMS
        }

    def show_raw(self, name: StreamName, data: bytes) -> None:
        """Hand on what a descriptor gave."""
        self.show([Stream(name, self._decoders[name].decode(data))])

    def show(self, events: Iterable[Event]) -> None:
        """Hand on events, cleaned, neighbouring text joined."""
        name: StreamName | None = None
        texts: list[str] = []
        try:
            for event in events:
                if isinstance(event, Stream):
                    if event.name != name:
                        self._show_text(name, texts)
                        name, texts = event.name, []
                    texts.append(event.text)
                    continue
                self._show_text(name, texts)
                name, texts = None, []
                self._emit(_cleaned(event))
        finally:  # what came before a broken frame
            self._show_text(name, texts)

    def finish(self) -> None:
        """Hand on what was held back, and tell what was left out."""
        for name in STREAMS:
            self.show([Stream(name, self._decoders[name].decode(b"", final=True))])
            self._emit(Stream(name, self._cleaners[name].finish()))
        if self._left_out:
            self.remark(f"{self._left_out} more outputs were left out: a cell shows {self._most}")

    def remark(self, text: str) -> None:
        """Hand on a line of our own."""
        self._on_event(Stream("stderr", f"cellblock: {text}\n"))

    def _show_text(self, name: StreamName | None, texts: list[str]) -> None:
        if name is not None and texts:
            self._emit(Stream(name, self._cleaners[name].feed("".join(texts))))

    def _emit(self, event: Event) -> None:
        first = False
        match event:
            case Stream(text=""):
                return
            case Result():
                first, self.result = self.result is None, event
            case Clear():
                self._clear(event)
                return
            case InputRequest():
                self._on_question(event)
                return
            case Error():
                first, self.error = self.error is None, event
        if isinstance(event, Display) and event.update:
            self._changes += 1
            if self._changes > _CHANGES * self._most:
                self._left_out += 1
            else:
                self._on_event(event)
        elif self._has_room(event, at_the_end=first):
            self._on_event(event)

    def _clear(self, event: Clear) -> None:
        """Clear, and count outputs anew: what is gone takes no room."""
        self._changes += 1
        if self._changes > _CHANGES * self._most:
            self._left_out += 1
            return
        self._outputs, self._stretch = 0, None
        self._on_event(event)

    def _has_room(self, event: Event, *, at_the_end: bool) -> bool:
        """Tell whether to show it; what a cell ends with is shown whatever came before."""
        stretch = event.name if isinstance(event, Stream) else None
        if stretch is not None and stretch == self._stretch:
            return True
        if self._outputs >= self._most and not at_the_end:
            self._left_out += 1
            return False
        self._outputs += 1
        self._stretch = stretch
        return True


def _cleaned(event: Display | Result | Error | Clear | InputRequest) -> Event:
    if isinstance(event, Error):
        return Error(one_line(event.ename, 200), colourless(event.evalue), clean(event.traceback))
    if isinstance(event, Clear):
        return event
    if isinstance(event, InputRequest):
        return InputRequest(event.number, colourless(event.prompt), event.secret)
    bundle = {
        mime: clean(value) if mime == "text/plain" and isinstance(value, str) else value
        for mime, value in event.bundle.items()
    }
    return replace(event, bundle=bundle)
