"""Passes the five channels between a front end and a kernel, on one thread.

Knows nothing of containers: it is given two connections, and descriptors to watch beside them.
What more a gate does with messages are its :mod:`~cellblock_kernel.gate.rules`. Nothing is lost on
the way: what the kernel says is taken at once and waits in an
:mod:`~cellblock_kernel.gate.outbox`; what a front end asks waits with the front end while the
kernel does not take it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import zmq

from .backlog import Backlog
from .connection import Connection
from .messages import Frames, Message, Signer, welcome
from .outbox import QUEUE_MESSAGES, Outbox, Publications, Replies
from .rules import Rule
from .subscription import Subscription

# Who asks for something in the order in which it must not wait.
_ORDER = ("control", "stdin", "iopub", "shell", "hb")
_AFTER_SUBSCRIPTION = ("control", "shell")
_IDENTITY = b"cellblock-gate"
_RECONNECT_MS = 10
_LINGER_MS = 1000
_SETTLE_MS = 30
_LAST_TURNS_S, _LAST_PATIENCE_S = 3.0, 1.0
_RETRY_S, _MOST_RETRY_S = 0.001, 0.05
_BATCH_MESSAGES, _BATCH_BYTES = 100, 1 << 20
_MOST_MESSAGE_BYTES = 1 << 30
_MOST_TOPICS, _MOST_TOPIC_BYTES = 64, 1024


class Relay:
    """The gate's sockets and its loop."""

    def __init__(self, front: Connection, rules: Sequence[Rule] = ()) -> None:
        """Bind the front end's side; ``rules`` begin next to the kernel. Raises OSError."""
        self._rules = list(rules)
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._watched: dict[int, Callable[[], None]] = {}
        self._front_signer = Signer(front.key)
        self._back_signer = Signer(b"")
        self._back: dict[str, zmq.Socket[bytes]] = {}
        self._held: dict[str, deque[Frames]] = {name: deque() for name in _ORDER}
        self._paused: set[str] = set()
        self._welcomed = False
        self._topics: list[bytes] = []
        self._stopped = False
        self.linger_ms = _LINGER_MS
        """How long what was sent is kept for a client that does not take it, when all ends."""
        self._retry_s = _RETRY_S
        self._subscription: Subscription | None = None
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
                self._subscription = Subscription(sock, self._poller)
            else:
                # One for all: the kernel asks for input where a request of the shell came from.
                sock.setsockopt(zmq.IDENTITY, _IDENTITY)
            sock.connect(back.address(name))
            self._poller.register(sock, zmq.POLLIN)
            if name not in _AFTER_SUBSCRIPTION:
                self._listen(name)

    def swap(self, back: Connection) -> None:
        """Connect another kernel's side in place of one that has ended and was drained.

        What front ends have asked and that one has not taken is dropped.
        """
        self._end_subscription()
        for sock in self._back.values():
            self._poller.unregister(sock)
            sock.close(linger=0)
        for name in _ORDER:
            self._held[name].clear()
            self._poller.register(self._front[name], 0)
        self._welcomed = False
        self.connect(back)

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
        for fd in list(self._watched):
            # One that is called may unwatch the next.
            if fd in ready and (callback := self._watched.get(fd)) is not None:
                callback()
        if self._subscription is not None:
            self._subscription.look(ready)
            if not self._subscription.left_s:
                self._take_requests()
        for name in _ORDER:
            back = self._back.get(name)
            if back is not None and back in ready:
                if ready[back] & zmq.POLLOUT:
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
        """Take what an ended kernel has left behind, for some seconds at most."""
        deadline_s = time.monotonic() + _LAST_TURNS_S
        poller = zmq.Poller()  # of its own: what is watched tells of the end all the time
        for sock in self._back.values():
            poller.register(sock, zmq.POLLIN)
        while time.monotonic() < deadline_s:
            ready = dict(poller.poll(_SETTLE_MS))
            for name in _ORDER:
                if self._back.get(name) in ready:
                    self._take(name, self._back[name], self._outward)
            self._flush()
            if not any(sock in ready for sock in self._back.values()):
                return

    def deliver(self) -> None:
        """Send what waits, for some seconds at most."""
        deadline_s = time.monotonic() + _LAST_TURNS_S
        self._publications.patience_s = _LAST_PATIENCE_S  # one that reads nothing holds up nobody
        while self._waits and time.monotonic() < deadline_s:
            time.sleep(self._retry_s)
            self._flush()

    def close(self) -> None:
        """Close the sockets, once what was sent has arrived or nobody takes it."""
        for sock in self._back.values():
            sock.close(linger=0)  # one that reconnects to an ended kernel waits in vain
        self._context.destroy(linger=self.linger_ms)

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

    @property
    def _waits(self) -> bool:
        return any(outbox.waiting for outbox in self._outboxes.values())

    def _wait_ms(self, timeout_s: float | None) -> int | None:
        waits = [] if timeout_s is None else [timeout_s]
        if self._waits:
            waits.append(self._retry_s)  # neither ROUTER nor XPUB says when it can be written
        if self._subscription is not None:
            waits.append(self._subscription.left_s)
        return -(-int(min(waits) * 1e6) // 1000) if waits else None

    def _take(
        self, name: str, sock: zmq.Socket[bytes], pass_on: Callable[[str, Frames], None]
    ) -> None:
        size = 0
        for _ in range(_BATCH_MESSAGES):  # others have their turn
            if pass_on == self._inward and not self._asks(name):
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
        elif name == "hb":
            self._send_inward(name, frames)
        elif (message := Message.read(frames, self._front_signer)) is not None:
            self._by_rules_inward(name, message, len(self._rules))

    def pass_inward(self, channel: str, message: Message, beyond: Rule) -> None:
        """Pass a message on to the kernel, by the rules between ``beyond`` and it."""
        self._by_rules_inward(channel, message, self._rules.index(beyond))

    def pass_outward(self, channel: str, message: Message, beyond: Rule) -> None:
        """Pass a message on to the front end, by the rules between ``beyond`` and it."""
        self._by_rules_outward(channel, message, self._rules.index(beyond) + 1)

    def _by_rules_inward(self, name: str, message: Message, rules: int) -> None:
        """Send what the first ``rules`` of the rules let pass, the last of them first."""
        if not rules:
            self._send_inward(name, message.frames(self._back_signer))
            return
        for passed in self._rules[rules - 1].inward(name, message):
            self._by_rules_inward(name, passed, rules - 1)

    def _by_rules_outward(self, name: str, message: Message, first: int) -> None:
        """Send what the rules from the ``first`` on let pass."""
        if first == len(self._rules):
            if name == "iopub":  # whoever has just subscribed is greeted first
                self._take(name, self._front[name], self._inward)
            self._outboxes[name].put(message.frames(self._front_signer), time.monotonic())
            return
        for passed in self._rules[first].outward(name, message):
            self._by_rules_outward(name, passed, first + 1)

    def _send_inward(self, name: str, frames: Frames) -> None:
        self._held[name].append(frames)
        if len(self._held[name]) == 1:
            self._deliver_held(name)

    def _deliver_held(self, name: str) -> None:
        """Send on what a front end asks; while the kernel does not take it, ask it no further."""
        sock, held = self._back[name], self._held[name]
        while held:
            try:
                sock.send_multipart(held[0], zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._poller.register(sock, zmq.POLLIN | zmq.POLLOUT)
                self._listen(name)
                return
            held.popleft()
        self._poller.register(sock, zmq.POLLIN)
        self._listen(name)

    def pause(self, channel: str) -> None:
        """Ask the front end for nothing more on a channel: what it sends waits with it."""
        self._paused.add(channel)
        self._listen(channel)

    def resume(self, channel: str) -> None:
        """Ask it again."""
        self._paused.discard(channel)
        self._listen(channel)

    def _asks(self, name: str) -> bool:
        """Return whether more is wanted of the front end on a channel."""
        return not (self._held[name] or name in self._paused)

    def _listen(self, name: str) -> None:
        self._poller.register(self._front[name], zmq.POLLIN if self._asks(name) else 0)

    def _outward(self, name: str, frames: Frames) -> None:
        if name == "hb":
            self._outboxes[name].put(frames, time.monotonic())
            return
        message = Message.read(frames, self._back_signer)
        if message is None:
            return
        if name == "iopub" and message.kind == "iopub_welcome":
            self._on_welcome()
            return
        with suppress(RecursionError):  # JSON that was just not too deep to be read is lost
            self._by_rules_outward(name, message, 0)

    def _flush(self) -> None:
        waiting = [outbox for outbox in self._outboxes.values() if outbox.waiting]
        if waiting:
            now_s = time.monotonic()
            progress = [outbox.flush(now_s) for outbox in waiting]
            self._retry_s = _RETRY_S if any(progress) else min(self._retry_s * 2, _MOST_RETRY_S)

    def _end_subscription(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _take_requests(self) -> None:
        self._end_subscription()
        for name in _AFTER_SUBSCRIPTION:
            self._listen(name)

    def _on_welcome(self) -> None:
        """Greet those who subscribed before the gate itself was; later ones when they come."""
        if self._subscription is not None:
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
        frames = welcome(topic).frames(self._front_signer)
        self._publications.put(frames, time.monotonic())
