"""What a front end has not taken yet: kept in order, within a number of bytes.

ZeroMQ's own queues drop without a word when they are full, so they are asked, never trusted: what
they do not take at once waits here, and is tried again. A client that does not read costs at most
the sums below.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import zmq

from .backlog import Backlog
from .messages import FRAME_BYTES, Frames

QUEUE_MESSAGES = 1000
"""What ZeroMQ takes for one client: its own default."""
_LARGE_BYTES = 1 << 16
_MOST_LARGE_BYTES = 64 << 20
_MOST_REPLIES_BYTES = 256 << 20
_BATCH = 100


class Outbox(Protocol):
    """Sends what it is given, now or later."""

    @property
    def waiting(self) -> bool:
        """Whether something is left to be sent."""

    def put(self, frames: Frames, now_s: float) -> None:
        """Send a message, or keep it."""

    def flush(self, now_s: float) -> bool:
        """Send what waits, as far as it is taken; return whether any was."""


class Replies:
    """To a ROUTER: each client's messages wait for that client alone.

    For all clients together 256 MiB wait; then a client's newest is left out, which only one that
    has not read thousands of replies can bring about. What is for nobody is dropped.
    """

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)  # EAGAIN and EHOSTUNREACH, not silence
        self._sender = _Sender(sock)
        self._clients: dict[bytes, deque[Frames]] = {}
        self._waiting_bytes = 0

    @property
    def waiting(self) -> bool:
        """Whether something is left to be sent."""
        return bool(self._clients)

    def put(self, frames: Frames, now_s: float) -> None:  # noqa: ARG002 - as every outbox
        """Send a message, or keep it."""
        client = frames[0].bytes
        if client not in self._clients and self._sent(frames):
            return
        size = size_bytes(frames)
        if self._waiting_bytes and self._waiting_bytes + size > _MOST_REPLIES_BYTES:
            return
        self._clients.setdefault(client, deque()).append(frames)
        self._waiting_bytes += size

    def flush(self, now_s: float) -> bool:  # noqa: ARG002 - as every outbox
        """Send what waits, as far as it is taken; return whether any was."""
        progress = False
        for client, queue in list(self._clients.items()):
            for _ in range(_BATCH):
                if not (queue and self._sent(queue[0])):
                    break
                self._waiting_bytes -= size_bytes(queue.popleft())
                progress = True
            if not queue:
                del self._clients[client]
        return progress

    def _sent(self, frames: Frames) -> bool:
        try:
            return self._sender.send(frames)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return True  # nobody is there to miss it
            raise


class Publications:
    """To an XPUB: everybody's messages wait for the slowest, but not for ever.

    When one client has taken nothing for ten seconds and there are others, it begins to lose
    messages, as it would with any kernel; the others' come at a pace that they can follow.
    """

    patience_s = 10.0

    def __init__(self, sock: zmq.Socket[bytes], backlog: Backlog) -> None:
        sock.setsockopt(zmq.XPUB_NODROP, 1)
        self._sock, self._sender, self._backlog = sock, _Sender(sock), backlog
        self._stalled_since_s: float | None = None
        self.subscriptions = 0

    @property
    def waiting(self) -> bool:
        """Whether something is left to be sent."""
        return bool(self._backlog)

    def put(self, frames: Frames, now_s: float) -> None:
        """Send a message, or keep it."""
        if self._backlog or not self._sender.send(frames):
            self._backlog.append(frames, size_bytes(frames))
            if self._stalled_since_s is None:
                self._stalled_since_s = now_s

    def flush(self, now_s: float) -> bool:
        """Send what waits, as far as it is taken; return whether any was."""
        if not self._backlog:
            return False
        if self._send_batch():
            self._stalled_since_s = now_s if self._backlog else None
            return True
        since_s = now_s if self._stalled_since_s is None else self._stalled_since_s
        if self.subscriptions < 2 or now_s - since_s < self.patience_s:
            return False
        self._sock.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            return self._send_batch(in_time=False)
        finally:
            self._sock.setsockopt(zmq.XPUB_NODROP, 1)

    def _send_batch(self, *, in_time: bool = True) -> bool:
        for number in range(_BATCH):
            if not self._backlog:
                return True
            if not self._sender.send(self._backlog.first(), bounded=in_time):
                return number > 0
            self._backlog.drop_first()
        return True


class _Sender:
    """Hands messages to one socket, large ones only while few bytes of such are under way.

    ZeroMQ counts messages, not bytes: a thousand of 50 MB would be within its bound.
    """

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        self._sock = sock
        self._under_way: deque[tuple[zmq.MessageTracker, int]] = deque()

    def send(self, frames: Frames, *, bounded: bool = True) -> bool:
        """Return whether the message was taken. Raises zmq.ZMQError."""
        large = sum(len(frame) for frame in frames if len(frame) >= _LARGE_BYTES)
        if large and bounded and not self._has_room(large):
            return False
        trackers = []
        if large:
            frames = [frame if len(frame) < _LARGE_BYTES else _tracked(frame) for frame in frames]
            trackers = [frame.tracker for frame in frames if frame.tracker is not None]
        try:
            self._sock.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        if large:
            self._under_way.append((zmq.MessageTracker(*trackers), large))
        return True

    def _has_room(self, size: int) -> bool:
        while self._under_way and self._under_way[0][0].done:
            self._under_way.popleft()
        total = sum(known for _, known in self._under_way)
        return not total or total + size <= _MOST_LARGE_BYTES


def size_bytes(frames: Frames) -> int:
    """Return about what a message costs to keep."""
    return sum(len(frame) + FRAME_BYTES for frame in frames)


def _tracked(frame: zmq.Frame) -> zmq.Frame:
    return zmq.Frame(frame.buffer, track=True, copy=False)
