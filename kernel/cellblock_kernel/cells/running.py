"""A started cell: what it sends, what it was told, and how it ended.

Everything that comes out is untrusted: it is bounded, decoded, cleaned and handed on in order.
This module starts nothing and knows no notebook.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellblock_engine import Unsupported

from ..errors import CellFailed, CellInterrupted, OutputRefused, VariableRefused
from ..outputs.text import TextCleaner, clean, colourless, one_line
from .events import Clear, Display, Error, Event, InputRequest, Result, Stream, StreamName
from .frames import FrameDecoder, FrameError, encode_answer
from .interrupts import Interrupts
from .questions import watched
from .variables import refused, unpack

if TYPE_CHECKING:
    from cellblock_engine import Attached, Exit

GRACE_S = 2.0
_CHANGES = 10  # times the limit of outputs: a long animation
_TICK_S = 0.5
_SHORTEST_WAIT_S = 0.01
_KILLED_S = 5.0
_MAX_UNREAD = 1 << 16
_READ_BYTES = 1 << 18
_FD_NAMES: tuple[StreamName, StreamName] = ("stdout", "stderr")


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


class RunningCell:
    """A started cell: what it sends, what it was told, how it ended."""

    def __init__(
        self,
        attached: Attached,
        interrupts: Interrupts,
        *,
        on_event: Callable[[Event], None],
        ask: Callable[[InputRequest], str] | None,
        limits: OutputLimits,
        wanted: Sequence[str],
    ) -> None:
        self.result: Result | None = None
        self._attached, self._on_event, self._interrupts = attached, on_event, interrupts
        self._limits = limits
        self._question = ask
        self._unsent = memoryview(b"")
        self._error: Error | None = None
        self._refused: str | None = None
        self._frames = FrameDecoder(limits.frame_bytes, wanted)
        self._received_bytes = 0
        self._outputs = self._changes = 0
        self._left_out = 0
        self._stretch: StreamName | None = None  # the stream of the output shown last
        self._cleaners = {name: TextCleaner() for name in _FD_NAMES}
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in _FD_NAMES
        }
        self._told = 0  # interrupts passed on
        self._kill_at: float | None = None
        self._give_up_at: float | None = None

    def follow(self, cell: bytes = b"") -> Exit:
        """Send the cell, hand on what comes until nothing more can, and return the exit.

        Without channels there are no frames, and nothing is sent: the outputs are all there is.
        """
        to_cell, *frames_and_raw = self._attached.channels or (-1,)
        self._unsent = memoryview(cell)
        with selectors.DefaultSelector() as selector:
            selector.register(self._interrupts.fd, selectors.EVENT_READ)
            if to_cell >= 0:
                os.set_blocking(to_cell, False)
                selector.register(to_cell, selectors.EVENT_WRITE)
            # Frames first, as the runner holds them back until raw output before them is read.
            # Beside them the container's own outputs, which the monitor relays, only tell of
            # failed starts.
            names: list[StreamName | None] = [None, *_FD_NAMES] if frames_and_raw else []
            own = (self._attached.stdout, self._attached.stderr)
            sources = dict(zip((*frames_and_raw, *own), (*names, *_FD_NAMES), strict=True))
            for fd in sources:
                selector.register(fd, selectors.EVENT_READ)
            while sources and not self._is_given_up():
                ready = {key.fd for key, _ in selector.select(self._patience_s())}
                self._pass_on_interrupts()
                if to_cell in ready:
                    self._unsent = _send(to_cell, self._unsent)
                    if not self._unsent:
                        selector.unregister(to_cell)
                for fd in [fd for fd in sources if fd in ready]:
                    try:
                        data = os.read(fd, _READ_BYTES)
                    except BlockingIOError:  # the cell has read back what it had written
                        continue
                    self._take(sources[fd], data)
                    if not data:
                        selector.unregister(fd)
                        del sources[fd]
                if self._unsent and to_cell not in selector.get_map():
                    selector.register(to_cell, selectors.EVENT_WRITE)
        for name in _FD_NAMES:
            self._show([Stream(name, self._decoders[name].decode(b"", final=True))])
            self._emit(Stream(name, self._cleaners[name].finish()))
        if self._left_out:
            self._on_event(
                Stream(
                    "stderr",
                    f"cellblock: {self._left_out} more outputs were left out: "
                    f"a cell shows {self._limits.outputs}\n",
                )
            )
        return self._exit()

    def judge(self, exit_: Exit, image: str) -> None:
        """Raise what ended the cell, unless it ended well."""
        if self._refused is not None:
            raise OutputRefused(
                f"the cell's output was refused and its container ended: {self._refused}"
            )
        ended_well = exit_.exit_code == 0 and self._error is None and exit_.verdict is None
        if self._told and not ended_well:
            late = self._give_up_at is not None
            raise CellInterrupted(
                f"the cell did not stop within {GRACE_S:g} s, and its container was killed"
                if late
                else "the cell was interrupted"
            )
        if exit_.verdict is not None:
            raise exit_.verdict
        if self._error is not None:
            raise CellFailed(self._error.ename, self._error.evalue)
        if self._frames.refusals:
            raise refused(self._frames.refusals)
        if exit_.exit_code != 0:
            raise self._silent_failure(exit_.exit_code, image)
        if self._frames.ignored:
            kinds = ", ".join(sorted(one_line(kind, 40) for kind in self._frames.ignored)[:5])
            self._emit(Stream("stderr", f"cellblock: output of unknown kinds ignored: {kinds}\n"))

    def variables(self) -> dict[str, object]:
        """Return the variables that were wanted of a cell that ended well."""
        missing = self._frames.missing()
        if missing:
            raise VariableRefused(
                f"the cell ended well without a variable {', '.join(map(repr, missing))}; nothing "
                "was brought back"
            )
        return unpack(self._frames.variables)

    def _silent_failure(self, exit_code: int, image: str) -> CellFailed | Unsupported:
        if exit_code > 128:
            with contextlib.suppress(ValueError):
                name = signal.Signals(exit_code - 128).name
                return CellFailed(name, "this signal ended the cell's process")
        if not self._attached.channels:
            return CellFailed("ExitStatus", str(exit_code))
        if self._frames.hello is None:
            return Unsupported(
                f"the Python of image {image} did not start the cell (exit status {exit_code}): "
                "a cell needs Python 3.8 or newer"
            )
        return CellFailed("SystemExit", str(exit_code))

    def _exit(self) -> Exit:
        while True:
            self._pass_on_interrupts()
            with contextlib.suppress(TimeoutError):
                return self._attached.wait(max(self._patience_s(), _SHORTEST_WAIT_S))
            if self._is_given_up():
                raise TimeoutError("the killed container did not end in time")

    def _patience_s(self) -> float:
        deadline = self._kill_at or self._give_up_at
        return _TICK_S if deadline is None else max(0, min(_TICK_S, deadline - time.monotonic()))

    def _is_given_up(self) -> bool:
        return self._give_up_at is not None and time.monotonic() >= self._give_up_at

    def _pass_on_interrupts(self) -> None:
        if self._interrupts.count > self._told:
            self._interrupts.clear()
            if not self._told:
                self._attached.interrupt()
                self._kill_at = time.monotonic() + GRACE_S
            else:
                self._kill_at = time.monotonic()
            self._told = self._interrupts.count
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill()

    def _kill(self) -> None:
        self._kill_at = None
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + _KILLED_S
            self._attached.kill()

    def _take(self, name: StreamName | None, data: bytes) -> None:
        """Take what one descriptor gave; None names the frames."""
        if self._refused is not None:
            return
        self._received_bytes += len(data)
        variable_bytes = self._frames.variable_bytes
        if variable_bytes > self._limits.variable_bytes:
            megabytes = self._limits.variable_bytes >> 20
            self._refuse(f"its variables passed {megabytes} MiB; write large data to files")
        elif self._received_bytes - variable_bytes > self._limits.total_bytes:
            megabytes = self._limits.total_bytes >> 20
            self._refuse(f"it passed {megabytes} MiB; write large output to files")
        elif name is None:
            try:
                self._show(self._frames.feed(data))
            except FrameError as error:
                self._refuse(str(error))
        elif not self._told or self._frames.hello is not None or not self._attached.channels:
            # An interrupt before the runner runs makes Python complain of its own start.
            self._show([Stream(name, self._decoders[name].decode(data))])

    def _refuse(self, reason: str) -> None:
        self._refused = reason
        self._kill()

    def _show(self, events: Iterable[Event]) -> None:
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
                self._ask(event)
                return
            case Error():
                first, self._error = self._error is None, event
        if isinstance(event, Display) and event.update:
            self._changes += 1
            if self._changes > _CHANGES * self._limits.outputs:
                self._left_out += 1
            else:
                self._on_event(event)
        elif self._has_room(event, at_the_end=first):
            self._on_event(event)

    def _ask(self, request: InputRequest) -> None:
        """Put a question of the cell, and queue the answer."""
        text, unasked = None, self._question is None
        if self._question is not None and not self._told:
            # A cell that is over, at its time limit for one, is not worth the user's answer.
            frames = self._attached.channels[1]
            with watched(frames, self._interrupts.withdraw), self._interrupts.raised():
                try:
                    text = self._question(request)
                except EOFError:
                    pass
                except NotImplementedError:
                    unasked = True
        if self._interrupts.count == self._told:  # an interrupt is the answer else
            answer = encode_answer(request.number, text, unasked=unasked)
            if len(self._unsent) > _MAX_UNREAD:
                self._refuse("it asks for input and does not read the answers")
                return
            self._unsent = memoryview(bytes(self._unsent) + answer)

    def _clear(self, event: Clear) -> None:
        """Clear, and count outputs anew: what is gone takes no room."""
        self._changes += 1
        if self._changes > _CHANGES * self._limits.outputs:
            self._left_out += 1
            return
        self._outputs, self._stretch = 0, None
        self._on_event(event)

    def _has_room(self, event: Event, *, at_the_end: bool) -> bool:
        """Tell whether to show it; what a cell ends with is shown whatever came before."""
        stretch = event.name if isinstance(event, Stream) else None
        if stretch is not None and stretch == self._stretch:
            return True
        if self._outputs >= self._limits.outputs and not at_the_end:
            self._left_out += 1
            return False
        self._outputs += 1
        self._stretch = stretch
        return True


def _send(fd: int, unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(fd, unsent) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:  # it ended without reading; its exit says why
        return unsent[len(unsent) :]


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
