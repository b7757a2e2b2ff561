"""Published messages that wait for a slow client: joined first, left out last, with a marker.

Text that a cell prints is joined once a few MiB wait, which loses nothing, and its beginning is
left out beyond 64 MiB, which is said where it was. Pictures and the like are left out beyond
1 GiB; status, input and errors only where they alone are that much, which no honest kernel sends.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Self

import zmq

from .messages import PARTS, Frames, Signer, compose, find_delimiter, message_type, parse

ESSENTIAL = frozenset(
    "status execute_input error iopub_welcome shutdown_reply comm_open comm_close".split()
)
_JOIN_BEYOND_BYTES = 8 << 20
_JOINED_BYTES = 1 << 20
_MOST_STREAM_BYTES = 64 << 20
_MOST_BYTES = 1 << 30
_MARKER = "\n[cellblock: {:,} characters left out, not read in time]\n"
_MARKER_BYTES = 1024
_SHARED_BYTES = 8192  # smaller frames keep a buffer of this size alive, which ZeroMQ read at once


class Backlog:
    """A queue of messages within a number of bytes."""

    most_stream_bytes = _MOST_STREAM_BYTES
    most_bytes = _MOST_BYTES
    join_beyond_bytes = _JOIN_BEYOND_BYTES

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._queue: deque[_Waiting] = deque()
        self._size = self._text_size = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def append(self, frames: Frames, size: int) -> None:
        """Keep a message."""
        new = _Waiting.of(frames, size)
        last = self._queue[-1] if self._queue else None
        if last and self._size > self.join_beyond_bytes and last.join(new):
            size = len(frames[-1])  # of a piece of text its content alone is kept
            last.size += size
            last.text_size += size
        else:
            self._queue.append(new)
            size = new.size
        self._size += size
        self._text_size += size if new.name else 0
        if self._text_size > self.most_stream_bytes:
            self._leave_out_text()
        if self._size > self.most_bytes:
            self._leave_out()

    def first(self) -> Frames:
        """Return the oldest message."""
        return self._queue[0].message(self._signer)

    def drop_first(self) -> None:
        """Forget the oldest message: it was sent."""
        gone = self._queue.popleft()
        self._size -= gone.size
        self._text_size -= gone.text_size

    def _leave_out_text(self) -> None:
        """Leave out the oldest text until half of what is allowed is left."""
        kept: deque[_Waiting] = deque()
        for waiting in self._queue:
            if waiting.text_size and self._text_size > self.most_stream_bytes // 2:
                self._size -= waiting.size
                self._text_size -= waiting.text_size
                waiting.leave_out()
                if kept and kept[-1].absorb(waiting):
                    continue
                self._size += waiting.size
            kept.append(waiting)
        self._queue = kept

    def _leave_out(self) -> None:
        """Leave out whole messages, the oldest first, what a client can do without before all."""
        for everything in (False, True):
            kept: deque[_Waiting] = deque()
            for waiting in self._queue:
                if self._size > self.most_bytes // 2 and (everything or not waiting.essential):
                    self._size -= waiting.size
                    self._text_size -= waiting.text_size
                else:
                    kept.append(waiting)
            self._queue = kept
            if self._size <= self.most_bytes:
                return


@dataclass(slots=True)
class _Waiting:
    """A message; where it is text, under a ``name``, it can be joined and left out.

    ``texts`` and ``left_out`` say what is to be sent, as soon as that is not what came.
    """

    frames: Frames
    at: int
    size: int
    text_size: int
    essential: bool
    name: str
    texts: list[str] | None = None
    left_out: int = 0
    composed: Frames | None = None

    @classmethod
    def of(cls, frames: Frames, size: int) -> Self:
        """Read just enough of a message whose signature was believed."""
        frames = [
            zmq.Frame(frame.bytes) if len(frame) < _SHARED_BYTES else frame for frame in frames
        ]
        at = find_delimiter(frames)
        if at is None:
            return cls(frames, 0, size, 0, essential=False, name="")
        kind = message_type(frames[at + 2])
        name = ""
        if kind == "stream" and len(frames) == at + 2 + PARTS:
            content = parse(frames[-1])
            if isinstance(content.get("name"), str) and isinstance(content.get("text"), str):
                name = content["name"]
        return cls(frames, at, size, size if name else 0, kind in ESSENTIAL, name)

    def join(self, later: _Waiting) -> bool:
        """Append the later one's text, if both are of one cell and one stream."""
        if not self._matches(later) or self.text_size > _JOINED_BYTES:
            return False
        self._text().extend(later._text())
        self.composed = None
        return True

    def leave_out(self) -> None:
        """Keep nothing but how much this was."""
        text = self._text()
        self.left_out += sum(len(piece) for piece in text)
        text.clear()
        self.composed = None
        self.size, self.text_size = _MARKER_BYTES, 0

    def absorb(self, later: _Waiting) -> bool:
        """Say what a later one that was left out would say, if this was left out too."""
        if self.text_size or not self._matches(later):
            return False
        self.left_out += later.left_out
        self.composed = None
        return True

    def message(self, signer: Signer) -> Frames:
        """Return the message as it is to be sent."""
        if self.texts is None:
            return self.frames
        if self.composed is None:
            marker = _MARKER.format(self.left_out) if self.left_out else ""
            content = json.dumps({"name": self.name, "text": marker + "".join(self.texts)})
            parts = [frame.buffer for frame in self.frames[self.at + 2 :]]
            self.composed = compose(self.frames[: self.at], [*parts, content.encode()], signer)
        return self.composed

    def _text(self) -> list[str]:
        """Return what is to be said, from now on in place of what came."""
        if self.texts is None:
            self.texts = [parse(self.frames.pop())["text"]]
        return self.texts

    def _matches(self, later: _Waiting) -> bool:
        """Return whether both are of one stream of one cell."""
        if not self.name or self.name != later.name:
            return False
        return self.frames[self.at + 3].bytes == later.frames[later.at + 3].bytes
