"""A message bus with a systemd on it, as far as a scope is asked for: answers as it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, Message, MessageType, Parser, new_error, new_method_return
from jeepney import HeaderFields as Fields
from jeepney.low_level import Header
from jeepney.wrappers import new_signal

SYSTEMD = DBusAddress(
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
)


class FakeBus:
    """One connection at a time; ``calls`` are the methods called, with their arguments.

    ``result`` is what becomes of the job, ``error`` the answer instead of a job. What is called
    ``silent`` gets no answer. Of ``forged`` somebody else on the bus tells, before and after.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[tuple[str, Any]] = []
        self.result = "done"
        self.error: str | None = None
        self.silent = ""
        self.forged = ""

    def serve(self, listener: socket.socket) -> None:
        """Serve until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, suppress(OSError):
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        said = b""
        while not said.endswith(b"\r\n"):
            said += client.recv(1000)
        client.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
        rest = client.recv(7)
        assert rest == b"BEGIN\r\n"
        parser = Parser()
        while data := client.recv(4096):
            for message in parser.feed(data):
                for answer in self._answers(message):
                    client.sendall(answer)

    def _answers(self, message: Message) -> Iterator[bytes]:
        member = message.header.fields[Fields.member]
        self.calls.append((member, message.body))
        if member == self.silent:
            return
        if member == "Hello":
            yield _sent(new_method_return(message, "s", (":1.7",)))
        elif member == "StartTransientUnit" and self.error is not None:
            name = "org.freedesktop.systemd1.Refused"
            yield _sent(new_error(message, name, "s", (self.error,)))
        elif member == "StartTransientUnit":
            job, unit = "/org/freedesktop/systemd1/job/1", message.body[0]
            forged = (":1.9", unit, self.forged)
            told = [(":1.2", "another.scope", "failed"), (":1.2", unit, self.result)]
            for sender, name, result in [forged, *told, forged] if self.forged else told:
                signal = new_signal(SYSTEMD, "JobRemoved", "uoss", (1, job, name, result))
                signal.header.fields[Fields.sender] = sender
                yield _sent(signal)
            reply = new_method_return(message, "o", (job,))
            reply.header.fields[Fields.sender] = ":1.2"
            yield _sent(reply)
        else:
            yield _sent(new_method_return(message))


def _sent(message: Message) -> bytes:
    header: Header = message.header
    assert header.message_type is not MessageType.method_call
    return bytes(message.serialise(serial=1))


@contextmanager
def serving(path: Path) -> Iterator[FakeBus]:
    """Serve at ``path`` for as long as the block."""
    bus = FakeBus(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=bus.serve, args=(listener,), daemon=True)
        thread.start()
        yield bus
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
