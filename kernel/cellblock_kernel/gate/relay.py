"""Passes the five channels between a front end and a kernel, on one thread.

Knows nothing of containers: it is given two connections, and descriptors to watch beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import zmq

from .connection import Connection
from .messages import Frames, Signer, find_delimiter, resign, welcome

# Who asks for something in the order in which it must not wait.
_ORDER = ("control", "stdin", "iopub", "shell", "hb")
_SIGNED = ("control", "stdin", "shell")
_IDENTITY = b"cellblock-gate"
_RECONNECT_MS = 10
_LINGER_MS = 1000
_SETTLE_MS = 30
_MOST_LAST_TURNS = 10_000


class Relay:
    """The gate's sockets and its loop."""

    def __init__(self, front: Connection) -> None:
        """Bind the front end's side. Raises zmq.ZMQError."""
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._watched: dict[int, Callable[[], None]] = {}
        self._front_signer = Signer(front.key)
        self._back: dict[str, zmq.Socket[bytes]] = {}
        self._welcomed = False
        self._subscribers: list[bytes] = []
        self._stopped = False
        self._front = {
            name: self._socket(zmq.XPUB if name == "iopub" else zmq.ROUTER) for name in _ORDER
        }
        for name, sock in self._front.items():
            if name == "iopub":
                sock.setsockopt(zmq.XPUB_VERBOSE, 1)
            else:
                sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
            if front.curve_secret and front.curve_public:
                sock.curve_server = True
                sock.curve_secretkey, sock.curve_publickey = front.curve_secret, front.curve_public
            sock.bind(front.address(name))

    def connect(self, back: Connection) -> None:
        """Connect the kernel's side, and begin to take what the front end has sent."""
        self._back_signer = Signer(back.key)
        for name in _ORDER:
            sock = self._back[name] = self._socket(zmq.SUB if name == "iopub" else zmq.DEALER)
            sock.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
            if name == "iopub":
                sock.setsockopt(zmq.SUBSCRIBE, b"")
            else:
                # One for all: the kernel asks for input where a request of the shell came from.
                sock.setsockopt(zmq.IDENTITY, _IDENTITY)
            sock.connect(back.address(name))
            self._poller.register(sock, zmq.POLLIN)
            self._poller.register(self._front[name], zmq.POLLIN)

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
        ready = dict(self._poller.poll(None if timeout_s is None else int(timeout_s * 1000)))
        for fd, callback in list(self._watched.items()):
            if fd in ready:
                callback()
        for name in _ORDER:
            if self._back.get(name) in ready:
                self._drain(name, self._back[name], self._outward)
            if self._front[name] in ready:
                self._drain(name, self._front[name], self._inward)

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
        """Pass on what the kernel has left behind."""
        for _ in range(_MOST_LAST_TURNS):
            ready = dict(self._poller.poll(_SETTLE_MS))
            if not any(sock in ready for sock in self._back.values()):
                return
            self.turn(0)

    def close(self) -> None:
        """Close the sockets, once what was sent has arrived or nobody takes it."""
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

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        sock: zmq.Socket[bytes] = self._context.socket(kind)
        sock.setsockopt(zmq.RCVHWM, 0)
        sock.setsockopt(zmq.SNDHWM, 0)
        return sock

    def _drain(
        self, name: str, sock: zmq.Socket[bytes], pass_on: Callable[[str, Frames], None]
    ) -> None:
        for _ in range(100):  # others have their turn
            try:
                frames: Frames = sock.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            pass_on(name, frames)

    def _inward(self, name: str, frames: Frames) -> None:
        if name == "iopub":
            self._on_subscription(frames[0].bytes)
        elif name == "hb":
            self._back[name].send_multipart(frames, copy=False)
        elif (signed := resign(frames, self._front_signer, self._back_signer)) is not None:
            self._back[name].send_multipart(signed, copy=False)

    def _outward(self, name: str, frames: Frames) -> None:
        if name == "hb":
            self._front[name].send_multipart(frames, copy=False)
            return
        signed = resign(frames, self._back_signer, self._front_signer)
        if signed is None:
            return
        if name == "iopub" and not self._welcomed and _is_welcome(frames):
            self._welcomed = True
            for topic in self._subscribers:
                self._welcome(topic)
            self._subscribers.clear()
            return
        self._front[name].send_multipart(signed, copy=False)

    def _on_subscription(self, message: bytes) -> None:
        if not message.startswith(b"\x01"):
            return
        if self._welcomed:
            self._welcome(message[1:])
        else:
            self._subscribers.append(message[1:])

    def _welcome(self, topic: bytes) -> None:
        self._front["iopub"].send_multipart(welcome(topic, self._front_signer))


def _is_welcome(frames: Frames) -> bool:
    at = find_delimiter(frames)
    return at is not None and b'"iopub_welcome"' in frames[at + 2].bytes
