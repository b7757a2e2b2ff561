"""Published messages that wait for a slow client: joined first, left out last, with a marker.

Text that a cell prints is joined once a few MiB wait, which loses nothing, and its beginning is
left out beyond 64 MiB, which is said where it was. Pictures and the like are left out beyond
1 GiB; status, input and errors only where they alone are that much, which no honest kernel sends.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Self

from .messages import PARTS, Frames, Signer, compose, find_delimiter, message_type, parse

ESSENTIAL = frozenset(
    "status execute_input error iopub_welcome shutdown_reply comm_open comm_close".split()
)
_JOIN_BEYOND_BYTES = 8 << 20
_JOINED_BYTES = 1 << 20
_MOST_STREAM_BYTES = 64 << 20
_MOST_BYTES = 1 << 30
_MARKER = "\n[cellblock: {:,} characters left out, not read in time]\n"
_STREAM_BYTES = 1024  # what a waiting piece of text costs beyond its content


class Backlog:
    """A queue of messages within a number of bytes."""

    most_stream_bytes = _MOST_STREAM_BYTES
    most_bytes = _MOST_BYTES
    join_beyond_bytes = _JOIN_BEYOND_BYTES

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._queue: deque[_Waiting] = deque()
        self._size = self._stream_size = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def append(self, frames: Frames, size: int) -> None:
        """Keep a message."""
        new = _Waiting.of(frames, size)
        last = self._queue[-1] if self._queue else None
        if last and self._size > self.join_beyond_bytes and last.join(new):
            new.size = len(new.frames[-1])  # the content alone is kept
            last.size += new.size
        else:
            self._queue.append(new)
        self._size += new.size
        if new.is_stream:
            self._stream_size += new.size
        if self._stream_size > self.most_stream_bytes:
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
        if gone.is_stream:
            self._stream_size -= gone.size

    def _leave_out_text(self) -> None:
        """Leave out the oldest text until half of what is allowed is left."""
        kept: deque[_Waiting] = deque()
        for waiting in self._queue:
            if waiting.is_stream and self._stream_size > self.most_stream_bytes // 2:
                self._size -= waiting.size
                self._stream_size -= waiting.size
                waiting.leave_out()
                if kept and kept[-1].absorb(waiting):
                    continue
                self._size += waiting.size
                self._stream_size += waiting.size
            kept.append(waiting)
        self._queue = kept

    def _leave_out(self) -> None:
        """Leave out whole messages, the oldest first, what a client can do without before all."""
        for everything in (False, True):
            kept: deque[_Waiting] = deque()
            for waiting in self._queue:
                if self._size > self.most_bytes // 2 and (everything or not waiting.essential):
                    self._size -= waiting.size
                    self._stream_size -= waiting.size if waiting.is_stream else 0
                else:
                    kept.append(waiting)
            self._queue = kept
            if self._size <= self.most_bytes:
                return


@dataclass(slots=True)
class _Waiting:
    """A message; with what it says where that is text, which can be joined and left out."""

    frames: Frames
    at: int
    size: int
    essential: bool
    name: str = ""
    texts: list[str] = field(default_factory=list)
    left_out: int = 0
    changed: bool = False

    @classmethod
    def of(cls, frames: Frames, size: int) -> Self:
        """Read just enough of a message whose signature was believed."""
        at = find_delimiter(frames)
        if at is None:
            return cls(frames, 0, size, essential=False)
        kind = message_type(frames[at + 2])
        new = cls(frames, at, size, essential=kind in ESSENTIAL)
        if kind == "stream" and len(frames) == at + 2 + PARTS:
            content = parse(frames[at + 5])
            name, text = content.get("name"), content.get("text")
            if isinstance(name, str) and name and isinstance(text, str):
                new.name, new.texts, new.size = name, [text], size + _STREAM_BYTES
        return new

    @property
    def is_stream(self) -> bool:
        return bool(self.name)

    def join(self, later: _Waiting) -> bool:
        """Append the later one's text, if both are of one cell and one stream."""
        if not self._matches(later) or self.size > _JOINED_BYTES:
            return False
        self.texts += later.texts
        self.changed = True
        return True

    def leave_out(self) -> None:
        """Keep nothing but how much this was."""
        self.left_out += sum(len(text) for text in self.texts)
        self.texts.clear()
        self.size, self.changed = _STREAM_BYTES, True

    def absorb(self, later: _Waiting) -> bool:
        """Say what a later one that was left out would say, if this was left out too."""
        if not (self.left_out and not self.texts and self._matches(later)):
            return False
        self.left_out += later.left_out
        return True

    def message(self, signer: Signer) -> Frames:
        """Return the message as it is to be sent."""
        if self.changed:
            text = "".join(self.texts)
            if self.left_out:
                text = _MARKER.format(self.left_out) + text
            content = json.dumps({"name": self.name, "text": text}).encode()
            parts = [frame.buffer for frame in self.frames[self.at + 2 : self.at + 5]]
            self.frames = compose(self.frames[: self.at], [*parts, content], signer)
            self.texts, self.changed = [text], False
            self.left_out = 0
        return self.frames

    def _matches(self, later: _Waiting) -> bool:
        if not self.is_stream or self.name != later.name:
            return False
        mine, other = self.frames[self.at + 3], later.frames[later.at + 3]
        return mine.bytes == other.bytes
