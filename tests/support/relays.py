"""A relay on a thread between a kernel and clients that are bare sockets of a test."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import zmq

from cellblock_kernel.gate.connection import CHANNELS, Connection
from cellblock_kernel.gate.messages import DELIMITER, Signer
from cellblock_kernel.gate.relay import Relay
from cellblock_kernel.gate.rules import Rule

PORTS = {name: number for number, name in enumerate(CHANNELS, 1)}
FRONT_KEY, BACK_KEY = b"front key", b"back key"
WAIT_MS = 5000


def message(
    key: bytes, kind: str, content: object, parent: object = None, **more: object
) -> list[bytes]:
    """Return a signed message without identities."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "s", "version": "5.4"}
    header |= more
    parts = [json.dumps(part).encode() for part in (header, parent or {}, {}, content)]
    return [DELIMITER, Signer(key).sign(parts), *parts]


def opened(key: bytes, frames: Sequence[bytes]) -> tuple[list[bytes], str, dict[str, object]]:
    """Return identities, type and content of a message whose signature must be right."""
    at = frames.index(DELIMITER)
    parts = frames[at + 2 : at + 6]
    assert Signer(key).verifies(frames[at + 1], parts)
    return list(frames[:at]), json.loads(parts[0])["msg_type"], json.loads(parts[3])


class Sockets:
    """Five sockets of one side, each with a deadline."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self.by_name: dict[str, zmq.Socket[bytes]] = {}

    def __getitem__(self, name: str) -> zmq.Socket[bytes]:
        return self.by_name[name]

    def open(self, name: str, kind: int) -> zmq.Socket[bytes]:
        sock = self.by_name[name] = self._context.socket(kind)
        sock.linger, sock.rcvtimeo, sock.sndtimeo = 0, WAIT_MS, WAIT_MS
        return sock


class Kernel(Sockets):
    """The kernel's sockets, bound."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], back: Connection, hwm: int = 0
    ) -> None:
        super().__init__(context)
        for name in CHANNELS:
            sock = self.open(name, zmq.XPUB if name == "iopub" else zmq.ROUTER)
            sock.set_hwm(hwm)
            sock.bind(back.address(name))

    def welcome(self) -> None:
        """Wait for the gate's subscription, and answer it (JEP 65)."""
        assert self["iopub"].recv() == b"\x01"
        self.publish("iopub_welcome", {"subscription": ""})

    def publish(self, kind: str, content: object, parent: object = None) -> None:
        self["iopub"].send_multipart([b"topic", *message(BACK_KEY, kind, content, parent)])

    def answer(self, name: str, reply: str) -> dict[str, object]:
        """Take one request and answer it; return what it said."""
        identities, _, content = opened(BACK_KEY, self[name].recv_multipart())
        self[name].send_multipart([*identities, *message(BACK_KEY, reply, content)])
        return content


class Client(Sockets):
    """A client's sockets, connected, all of one identity."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        front: Connection,
        name: str,
        hwm: int = 0,
        names: Sequence[str] = CHANNELS,
        topic: bytes = b"",
    ) -> None:
        super().__init__(context)
        for channel in names:
            kinds = {"iopub": zmq.SUB, "hb": zmq.REQ}
            sock = self.open(channel, kinds.get(channel, zmq.DEALER))
            sock.set_hwm(hwm)
            if channel == "iopub":
                sock.subscribe(topic)
            elif channel != "hb":
                sock.setsockopt(zmq.IDENTITY, name.encode())
            if front.curve_public:
                sock.curve_serverkey = front.curve_public
                sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
            sock.connect(front.address(channel))

    def ask(self, name: str, kind: str, content: object) -> None:
        self[name].send_multipart(message(FRONT_KEY, kind, content))

    def take(self, name: str) -> tuple[str, dict[str, object]]:
        _, kind, content = opened(FRONT_KEY, self[name].recv_multipart())
        return kind, content


class Rig:
    """A relay, and what a test has on its two sides."""

    def __init__(
        self, directory: Path, front: Connection | None = None, rules: Sequence[Rule] = ()
    ) -> None:
        self.front = front or Connection("ipc", f"{directory}/front", PORTS, FRONT_KEY)
        self.back = Connection("ipc", f"{directory}/kernel", PORTS, BACK_KEY)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.max_sockets = 4000
        self.relay = Relay(self.front, rules)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def kernel(self, hwm: int = 0) -> Kernel:
        """Bind a kernel, connect the relay and let it run."""
        kernel = Kernel(self.context, self.back, hwm)
        self.start()
        return kernel

    def swap(self) -> Kernel:
        """Bind another kernel, let the relay take it in place of the one before, and go on."""
        self.halt()
        self.back = replace(self.back, ip=f"{self.back.ip}-other")
        kernel = Kernel(self.context, self.back)
        self.relay.drain()
        self.relay.swap(self.back)
        self.start_again()
        return kernel

    def start(self) -> None:
        self.relay.connect(self.back)
        self.start_again()

    def start_again(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def client(
        self,
        name: str = "client",
        hwm: int = 0,
        names: Sequence[str] = CHANNELS,
        topic: bytes = b"",
    ) -> Client:
        return Client(self.context, self.front, name, hwm, names, topic)

    def halt(self) -> None:
        """End the loop; the relay is the test's own again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.relay.turn(0.02)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.failure = error

    def close(self) -> None:
        self.halt()
        self.context.destroy(linger=0)
        self.relay.close()


@contextmanager
def rigs(directory: Path) -> Iterator[Callable[..., Rig]]:
    """Yield a maker of rigs whose relays must still be alive at the end."""
    made: list[Rig] = []

    def make(front: Connection | None = None, rules: Sequence[Rule] = ()) -> Rig:
        own = directory / str(len(made))
        own.mkdir()
        made.append(Rig(own, front, rules))
        return made[-1]

    try:
        yield make
    finally:
        for rig in made:
            rig.close()
    for rig in made:
        assert rig.failure is None, rig.failure
