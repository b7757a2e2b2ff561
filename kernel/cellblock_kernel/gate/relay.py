"""Passes the five channels between a front end and a kernel, on one thread.

Knows nothing of containers: it is given two connections, and descriptors to watch beside them.
Nothing is lost on the way: what the kernel says is taken at once and waits in an
:mod:`~cellblock_kernel.gate.outbox`; what a front end asks waits with the front end while the
kernel does not take it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import zmq

from .backlog import Backlog
from .connection import Connection
from .messages import Frames, Signer, find_delimiter, message_type, resign, welcome
from .outbox import QUEUE_MESSAGES, Outbox, Publications, Replies

# Who asks for something in the order in which it must not wait.
_ORDER = ("control", "stdin", "iopub", "shell", "hb")
_AFTER_SUBSCRIPTION = ("control", "shell")
_IDENTITY = b"cellblock-gate"
_RECONNECT_MS = 10
_LINGER_MS = 1000
_SETTLE_MS = 30
_LAST_TURNS_S = 3.0
_SUBSCRIPTION_S = 0.2
_RETRY_S, _MOST_RETRY_S = 0.001, 0.05
_BATCH_MESSAGES, _BATCH_BYTES = 100, 1 << 20
_MOST_MESSAGE_BYTES = 1 << 30
_MOST_TOPICS, _MOST_TOPIC_BYTES = 64, 1024


class Relay:
    """The gate's sockets and its loop."""

    def __init__(self, front: Connection) -> None:
        """Bind the front end's side. Raises OSError."""
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._watched: dict[int, Callable[[], None]] = {}
        self._front_signer = Signer(front.key)
        self._back_signer = Signer(b"")
        self._back: dict[str, zmq.Socket[bytes]] = {}
        self._held: dict[str, Frames] = {}
        self._welcomed = False
        self._topics: list[bytes] = []
        self._stopped = False
        self._retry_s = _RETRY_S
        self._subscribed_at_s: float | None = None
        try:
            self._front = {name: self._bind(name, front) for name in _ORDER}
        except OSError:
            self.close()
            raise
        self._publications = Publications(self._front["iopub"], Backlog(self._front_signer))
        self._outboxes: dict[str, Outbox] = {
            name: Replies(sock) for name, sock in self._front.items() if name != "iopub"
        }
        self._outboxes["iopub"] = self._publications

    def connect(self, back: Connection) -> None:
        """Connect the kernel's side, and begin to take what the front end has sent."""
        self._back_signer = Signer(back.key)
        for name in _ORDER:
            sock = self._back[name] = self._socket(zmq.SUB if name == "iopub" else zmq.DEALER)
            sock.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
            sock.setsockopt(zmq.RCVHWM, 0)  # a kernel drops what is not taken from it
            if name == "iopub":
                sock.setsockopt(zmq.SUBSCRIBE, b"")
            else:
                # One for all: the kernel asks for input where a request of the shell came from.
                sock.setsockopt(zmq.IDENTITY, _IDENTITY)
            sock.connect(back.address(name))
            self._poller.register(sock, zmq.POLLIN)
            if name not in _AFTER_SUBSCRIPTION:
                self._poller.register(self._front[name], zmq.POLLIN)
        # What a request publishes is lost if it comes before the subscription. A kernel that does
        # not say when it has come (JEP 65) has this long.
        self._subscribed_at_s = time.monotonic() + _SUBSCRIPTION_S

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``fd`` can be read, or has ended."""
        self._watched[fd] = callback
        self._poller.register(fd, zmq.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Watch it no longer."""
        if self._watched.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def turn(self, timeout_s: float | None) -> None:
        """Wait for something to come, and pass it on."""
        ready = dict(self._poller.poll(self._wait_ms(timeout_s)))
        for fd, callback in list(self._watched.items()):
            if fd in ready:
                callback()
        if self._subscribed_at_s is not None and time.monotonic() >= self._subscribed_at_s:
            self._take_requests()
        for name in _ORDER:
            back = self._back.get(name)
            if back is not None and back in ready:
                if name in self._held and ready[back] & zmq.POLLOUT:
                    self._deliver_held(name)
                if ready[back] & zmq.POLLIN:
                    self._take(name, back, self._outward)
            if self._front[name] in ready:
                self._take(name, self._front[name], self._inward)
        self._flush()

    def stop(self) -> None:
        """Say that nothing more is to be passed on: see :attr:`stopped`."""
        self._stopped = True

    @property
    def stopped(self) -> bool:
        """Whether somebody has said stop."""
        return self._stopped

    @property
    def connected(self) -> bool:
        """Whether the kernel's side was ever connected."""
        return bool(self._back)

    def drain(self) -> None:
        """Pass on what the kernel has left behind, for some seconds at most."""
        deadline_s = time.monotonic() + _LAST_TURNS_S
        for sock in self._front.values():
            self._poller.register(sock, 0)
        for sock in self._back.values():
            self._poller.register(sock, zmq.POLLIN)
        while time.monotonic() < deadline_s:
            ready = dict(self._poller.poll(_SETTLE_MS))
            for name in _ORDER:
                if self._back.get(name) in ready:
                    self._take(name, self._back[name], self._outward)
            self._flush()
            waiting = any(outbox.waiting for outbox in self._outboxes.values())
            if not (waiting or any(sock in ready for sock in self._back.values())):
                return

    def close(self) -> None:
        """Close the sockets, once what was sent has arrived or nobody takes it."""
        for sock in self._back.values():
            sock.close(linger=0)  # one that reconnects to an ended kernel waits in vain
        self._context.destroy(linger=_LINGER_MS)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _bind(self, name: str, front: Connection) -> zmq.Socket[bytes]:
        sock = self._socket(zmq.XPUB if name == "iopub" else zmq.ROUTER)
        if name == "iopub":
            sock.setsockopt(zmq.XPUB_VERBOSER, 1)
        else:
            sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
        address = front.address(name)
        try:
            if front.curve_secret and front.curve_public:
                sock.curve_server = True
                sock.curve_secretkey, sock.curve_publickey = front.curve_secret, front.curve_public
            sock.bind(address)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"{address}: {error.strerror}") from error
        return sock

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        sock: zmq.Socket[bytes] = self._context.socket(kind)
        sock.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
        sock.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
        sock.setsockopt(zmq.MAXMSGSIZE, _MOST_MESSAGE_BYTES)
        return sock

    def _wait_ms(self, timeout_s: float | None) -> int | None:
        waits = [] if timeout_s is None else [timeout_s]
        if any(outbox.waiting for outbox in self._outboxes.values()):
            waits.append(self._retry_s)  # neither ROUTER nor XPUB says when it can be written
        if self._subscribed_at_s is not None:
            waits.append(max(0.0, self._subscribed_at_s - time.monotonic()))
        return -(-int(min(waits) * 1e6) // 1000) if waits else None

    def _take(
        self, name: str, sock: zmq.Socket[bytes], pass_on: Callable[[str, Frames], None]
    ) -> None:
        size = 0
        for _ in range(_BATCH_MESSAGES):  # others have their turn
            if name in self._held and pass_on == self._inward:
                return
            try:
                frames: Frames = sock.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            pass_on(name, frames)
            size += sum(len(frame) for frame in frames)
            if size > _BATCH_BYTES:
                return

    def _inward(self, name: str, frames: Frames) -> None:
        if name == "iopub":
            self._on_subscription(frames[0].bytes)
            return
        signed: Frames | None = frames
        if name != "hb":
            signed = resign(frames, self._front_signer, self._back_signer)
        if signed is not None:
            self._held[name] = signed
            self._deliver_held(name)

    def _deliver_held(self, name: str) -> None:
        """Send on what a front end asks; while the kernel does not take it, ask it no further."""
        sock = self._back[name]
        try:
            sock.send_multipart(self._held[name], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._poller.register(sock, zmq.POLLIN | zmq.POLLOUT)
            self._poller.register(self._front[name], 0)
            return
        del self._held[name]
        self._poller.register(sock, zmq.POLLIN)
        self._poller.register(self._front[name], zmq.POLLIN)

    def _outward(self, name: str, frames: Frames) -> None:
        if name == "hb":
            self._outboxes[name].put(frames, time.monotonic())
            return
        signed = resign(frames, self._back_signer, self._front_signer)
        if signed is None:
            return
        if name == "iopub" and _is_welcome(signed):
            self._on_welcome()
            return
        self._outboxes[name].put(signed, time.monotonic())

    def _flush(self) -> None:
        waiting = [outbox for outbox in self._outboxes.values() if outbox.waiting]
        if waiting:
            now_s = time.monotonic()
            progress = [outbox.flush(now_s) for outbox in waiting]
            self._retry_s = _RETRY_S if any(progress) else min(self._retry_s * 2, _MOST_RETRY_S)

    def _take_requests(self) -> None:
        self._subscribed_at_s = None
        for name in _AFTER_SUBSCRIPTION:
            self._poller.register(self._front[name], zmq.POLLIN)

    def _on_welcome(self) -> None:
        """Greet those who subscribed before the gate itself was; later ones when they come."""
        if self._subscribed_at_s is not None:
            self._take_requests()
        self._welcomed = True
        for topic in self._topics:
            self._welcome(topic)
        self._topics.clear()

    def _on_subscription(self, message: bytes) -> None:
        """Note who reads. Topics are not passed on: the gate takes everything."""
        kind, topic = message[:1], message[1:]
        if kind == b"\x00":
            self._publications.subscriptions = max(0, self._publications.subscriptions - 1)
        if kind != b"\x01":
            return
        self._publications.subscriptions += 1
        try:
            topic.decode()
        except UnicodeDecodeError:
            return
        if len(topic) > _MOST_TOPIC_BYTES:
            return
        if self._welcomed:
            self._welcome(topic)
        elif topic not in self._topics and len(self._topics) < _MOST_TOPICS:
            self._topics.append(topic)

    def _welcome(self, topic: bytes) -> None:
        self._publications.put(welcome(topic, self._front_signer), time.monotonic())


def _is_welcome(frames: Frames) -> bool:
    at = find_delimiter(frames)
    if at is None:
        return False
    header = frames[at + 2]
    return b'"iopub_welcome"' in header.bytes and message_type(header) == "iopub_welcome"
