"""A started cell: what it sends, what it was told, and how it ended.

The cell may have its process, and its container, for itself, or be one of those that an
interpreter runs one after another. This module starts nothing, judges nothing and knows no
notebook; ``output.py`` has what is shown, ``judgement.py`` what an end means.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cellblock_engine import Exit

from .events import Event, InputRequest, StreamName
from .frames import FrameDecoder, FrameError, encode_answer
from .interrupts import Interrupts
from .output import STREAMS, Output, OutputLimits
from .questions import watched

if TYPE_CHECKING:
    from cellblock_engine import Attached

GRACE_S = 2.0
_TICK_S = 0.5
_SHORTEST_WAIT_S = 0.01
_KILLED_S = 5.0
_SILENT_S = 1.0
_MAX_UNREAD = 1 << 16
_READ_BYTES = 1 << 18
_PIPE_BYTES = 1 << 20  # what a pipe can hold at most


@dataclass
class Turn:
    """A cell's place among those of one interpreter, and what is in the channels between two."""

    number: int = 0
    unread: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""


class RunningCell:
    """A started cell.

    ``refused`` says why its output was, ``interrupts_told`` how many interrupts it was told of,
    ``timed_out`` that its time was over and ``gave_up`` that it was killed, which is done
    ``grace_s`` seconds after it was told to stop. Its process is at its end when all pipes are
    ``closed``, as they are when a container has ended, or when it has ``exited``: what else runs
    in a container that lives on can hold them open.
    """

    def __init__(
        self,
        attached: Attached,
        interrupts: Interrupts,
        *,
        on_event: Callable[[Event], None],
        ask: Callable[[InputRequest], str] | None,
        limits: OutputLimits,
        wanted: Sequence[str],
        until: Literal["closed", "exited"] = "closed",
        turn: Turn | None = None,
        grace_s: float = GRACE_S,
        timeout_s: float | None = None,
    ) -> None:
        self.refused: str | None = None
        self.interrupts_told = 0
        self.timed_out = False
        self.grace_s, self.timeout_s = grace_s, timeout_s
        self.frames = FrameDecoder(
            limits.frame_bytes,
            wanted,
            number=None if turn is None else turn.number,
            buffer=None if turn is None else turn.unread,
        )
        self.output = Output(on_event, self._ask, limits.outputs)
        self._attached, self._interrupts, self._turn = attached, interrupts, turn
        self._end = attached.fileno() if until == "exited" else -1
        self._limits, self._question = limits, ask
        self._unsent = memoryview(b"")
        self._received_bytes = 0
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._kill_at: float | None = None
        self._give_up_at: float | None = None

    @property
    def gave_up(self) -> bool:
        """Tell whether it had to be killed."""
        return self._give_up_at is not None

    @property
    def has_frames(self) -> bool:
        """Tell whether a runner runs it; the outputs are all there is of other commands."""
        return len(self._attached.channels) > 1

    @property
    def has_begun(self) -> bool:
        """Tell whether a runner has said hello, to this cell or to one before it."""
        is_later = self._turn is not None and self._turn.number > 1
        return is_later or self.frames.hello is not None

    def follow(self, cell: bytes = b"") -> Exit:
        """Send the cell, hand on what comes until nothing more can, and return how it ended.

        That is the exit of its process, or the status that a runner gave which runs further
        cells (``frames.status``).
        """
        to_cell, *frames_and_raw = self._attached.channels or (-1,)
        before = b"" if self._turn is None else self._turn.unsent
        self._unsent = memoryview(before + cell if before else cell)
        with selectors.DefaultSelector() as selector:
            selector.register(self._interrupts.fd, selectors.EVENT_READ)
            if to_cell >= 0:
                os.set_blocking(to_cell, False)
            # Frames first, as the runner holds them back until raw output before them is read.
            # Beside them the process's own outputs only tell of failed starts.
            names: list[StreamName | None] = [None, *STREAMS] if frames_and_raw else []
            own = (self._attached.stdout, self._attached.stderr)
            sources = dict(zip((*frames_and_raw, *own), (*names, *STREAMS), strict=True))
            for fd in sources:
                selector.register(fd, selectors.EVENT_READ)
            if self._end >= 0:
                selector.register(self._end, selectors.EVENT_READ)
            self._take(None, b"")  # what was read with the end of the cell before
            while sources and self.frames.status is None and not self._is_given_up():
                to_cell = self._mind_the_input(selector, to_cell)
                ready = {key.fd for key, _ in selector.select(self._patience_s())}
                self._pass_on_interrupts()
                if to_cell in ready:
                    self._unsent = _send(to_cell, self._unsent)
                for fd in [fd for fd in sources if fd in ready]:
                    if not self._read(sources[fd], fd):
                        selector.unregister(fd)
                        self._on_source_end(sources.pop(fd))
                if self._end in ready:
                    self._drain(sources)
                    break
            if self.frames.status is not None:
                self._drain({fd: name for fd, name in sources.items() if name is not None})
        self.output.finish()
        if self.frames.status is None:
            return self._exit()
        if len(self._unsent) > _MAX_UNREAD:
            self._refuse("it says that it has ended, and was not even read")
        elif self._turn is not None:
            self._turn.unsent = bytes(self._unsent)
        return Exit(self.frames.status, None)

    def _mind_the_input(self, selector: selectors.BaseSelector, to_cell: int) -> int:
        """Watch for room in the channel to the cell while there is something to send.

        A command that is no runner reads to the end, and gets it. Returns the channel, or -1.
        """
        if to_cell < 0:
            return to_cell
        is_watched = to_cell in selector.get_map()
        if self._unsent and not is_watched:
            selector.register(to_cell, selectors.EVENT_WRITE)
        elif not self._unsent:
            if is_watched:
                selector.unregister(to_cell)
            if not self.has_frames:
                self._attached.close_channel(to_cell)
                return -1
        return to_cell

    def _read(self, name: StreamName | None, fd: int) -> int:
        """Take what a descriptor has; return how much it was, 0 at its end."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:  # the cell has read back what it had written
            return 1
        self._take(name, data)
        return len(data)

    def _drain(self, sources: dict[int, StreamName | None]) -> None:
        """Take what is in the pipes at the end, and nothing that comes later."""
        for fd, name in sources.items():
            read_bytes = 0
            while read_bytes < _PIPE_BYTES:
                try:
                    data = os.read(fd, _READ_BYTES)
                except BlockingIOError:
                    break
                if not data:
                    break
                self._take(name, data)
                read_bytes += len(data)

    def _on_source_end(self, name: StreamName | None) -> None:
        if name is None and self._turn is not None:  # it ends as well, or nobody can follow it
            self._kill_at = self._kill_at or time.monotonic() + _SILENT_S

    def _exit(self) -> Exit:
        while True:
            self._pass_on_interrupts()
            with contextlib.suppress(TimeoutError):
                return self._attached.wait(max(self._patience_s(), _SHORTEST_WAIT_S))
            if self._is_given_up():
                raise TimeoutError("the killed process did not end in time")

    def _patience_s(self) -> float:
        times = (self._deadline, self._kill_at, self._give_up_at)
        waits = [until - time.monotonic() for until in times if until is not None]
        return max(0, min([_TICK_S, *waits]))

    def _is_given_up(self) -> bool:
        return self._give_up_at is not None and time.monotonic() >= self._give_up_at

    def _pass_on_interrupts(self) -> None:
        """Tell the cell to stop, once, and kill it when it was told again or had its grace."""
        if self._interrupts.count > self.interrupts_told:
            self._interrupts.clear()
            self._stop(at_once=bool(self.interrupts_told) or self.timed_out)
            self.interrupts_told = self._interrupts.count
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = None
            if not self.interrupts_told:
                self.timed_out = True
                self._stop(at_once=False)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill()

    def _stop(self, *, at_once: bool) -> None:
        self._kill_at = time.monotonic()
        if not at_once:
            self._attached.interrupt()
            self._kill_at += self.grace_s

    def _kill(self) -> None:
        self._kill_at = None
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + _KILLED_S
            self._attached.kill()

    def _take(self, name: StreamName | None, data: bytes) -> None:
        """Take what one descriptor gave; None names the frames."""
        if self.refused is not None:
            return
        self._received_bytes += len(data)
        variable_bytes = self.frames.variable_bytes
        if variable_bytes > self._limits.variable_bytes:
            megabytes = self._limits.variable_bytes >> 20
            self._refuse(f"its variables passed {megabytes} MiB; write large data to files")
        elif self._received_bytes - variable_bytes > self._limits.total_bytes:
            megabytes = self._limits.total_bytes >> 20
            self._refuse(f"it passed {megabytes} MiB; write large output to files")
        elif name is None:
            try:
                self.output.show(self.frames.feed(data))
            except FrameError as error:
                self._refuse(str(error))
        elif not self.interrupts_told or self.has_begun or not self.has_frames:
            # An interrupt before the runner runs makes Python complain of its own start.
            self.output.show_raw(name, data)

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        self._kill()

    def _ask(self, request: InputRequest) -> None:
        """Put a question of the cell, and queue the answer."""
        text, unasked = None, self._question is None
        if self._question is not None and not self.interrupts_told and not self.timed_out:
            # A cell that is over, at its time limit for one, is not worth the user's answer.
            frames = self._attached.channels[1]
            withdraw = self._interrupts.withdraw
            with watched(frames, withdraw, self._deadline), self._interrupts.raised():
                try:
                    text = self._question(request)
                except EOFError:
                    pass
                except NotImplementedError:
                    unasked = True
        overdue = self._deadline is not None and time.monotonic() >= self._deadline
        if self._interrupts.count == self.interrupts_told and not overdue:
            # else an interrupt is the answer
            answer = encode_answer(request.number, text, unasked=unasked)
            if len(self._unsent) > _MAX_UNREAD:
                self._refuse("it asks for input and does not read the answers")
                return
            self._unsent = memoryview(bytes(self._unsent) + answer)


def _send(fd: int, unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(fd, unsent) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:  # it ended without reading; its exit says why
        return unsent[len(unsent) :]
