"""A running command and the caller's ends of its streams."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from ..errors import Killed, StartFailed, TimedOut, Verdict
from . import state, wire
from .streams import INWARD, OUTWARD, pipe_for_container
from .verdicts import error_of, verdict_of

_CHUNK = 1 << 16
_UNWINDING_S = 60.0
_LAST_OUTPUT_S = 1.0


@dataclass(frozen=True)
class Exit:
    """How a command ended: its exit status, and why if not by itself.

    A command ended by a signal has 128 and the signal's number as its status.
    """

    exit_code: int
    verdict: Verdict | None


class Pipes:
    """Both ends of a command's streams, until the far ends have been sent away."""

    def __init__(self, *, interactive: bool, channels: Sequence[str]) -> None:
        self.near: dict[str, int] = {}
        self.channels: list[int] = []
        self.far: list[tuple[str, int]] = []
        try:
            if interactive:
                self.near["stdin"] = self._pipe("stdin", inward=True)
            self.near["stdout"] = self._pipe("stdout", inward=False)
            self.near["stderr"] = self._pipe("stderr", inward=False)
            for direction in channels:
                self.channels.append(self._pipe("channel", inward=direction == "in"))
        except BaseException:
            self.close()
            raise

    def _pipe(self, name: str, *, inward: bool) -> int:
        read_end, write_end = pipe_for_container(INWARD if inward else OUTWARD)
        near, far = (write_end, read_end) if inward else (read_end, write_end)
        if not inward:
            # What poll(2) announced may have been taken by somebody inside (where ids are shared).
            os.set_blocking(near, False)
        self.far.append((name, far))
        return near

    def close_far(self) -> None:
        """Close what the command now holds itself."""
        while self.far:
            os.close(self.far.pop()[1])

    def close(self) -> None:
        """Close everything."""
        self.close_far()
        for fd in (*self.near.values(), *self.channels):
            os.close(fd)
        self.near.clear()
        self.channels.clear()


class Attached:
    """A command of this process: it ends when this process does, or closes it.

    ``stdin`` is the end to write to (None without ``interactive``), ``stdout`` and ``stderr``
    are ends to read from, ``channels`` the near ends of the channels that were asked for. They
    belong to this object; those to read from do not block, so poll first and expect
    BlockingIOError even then. Give ``stdin`` its end of file with :meth:`close_stdin`. Output must
    be read, or the command waits for its reader.
    """

    def __init__(self, sock: socket.socket, pipes: Pipes) -> None:
        """Wait until the command runs. Raises StartFailed and its kind; owns both from here."""
        self._sock, self._pipes = sock, pipes
        self._lock = threading.Lock()
        self._exit: Exit | None = None
        try:
            pipes.close_far()
            self.pid = await_start(sock)
        except BaseException:
            self.close()
            raise

    @property
    def stdin(self) -> int | None:
        """The write end of the command's standard input."""
        return self._pipes.near.get("stdin")

    @property
    def stdout(self) -> int:
        """The read end of its standard output."""
        return self._pipes.near["stdout"]

    @property
    def stderr(self) -> int:
        """The read end of its standard error."""
        return self._pipes.near["stderr"]

    @property
    def channels(self) -> tuple[int, ...]:
        """The near ends of its channels, in the order of the request."""
        return tuple(self._pipes.channels)

    def fileno(self) -> int:
        """Return a descriptor that can be read once the command has ended: see :meth:`wait`."""
        return self._sock.fileno()

    def close_stdin(self) -> None:
        """Let the command see the end of its input; nothing if that was done."""
        fd = self._pipes.near.pop("stdin", None)
        if fd is not None:
            os.close(fd)

    def close_channel(self, fd: int) -> None:
        """Let the command see the end of a channel that it reads; it is no longer among them."""
        self._pipes.channels.remove(fd)
        os.close(fd)

    def signal(self, number: int) -> None:
        """Send a signal to the command; nothing if it has ended."""
        self._send({"op": "signal", "signal": int(number)})

    def interrupt(self) -> None:
        """Send SIGINT to the command and its process group, as Ctrl-C at a terminal does."""
        self._send({"op": "interrupt"})

    def kill(self) -> None:
        """End the command at once, with what it started in its process group."""
        self._send({"op": "kill"})

    def wait(self, timeout_s: float | None = None) -> Exit:
        """Return how the command ended, once all that belonged to it is gone.

        Raises TimeoutError after ``timeout_s`` seconds.
        """
        with self._lock:
            if self._exit is None:
                self._exit = await_exit(self._sock, timeout_s) or _lost()
            return self._exit

    def communicate(
        self, stdin: bytes | None, *, most_bytes: int, timeout_s: float | None = None
    ) -> tuple[bytes, bytes, Exit]:
        """Write ``stdin``, gather both outputs, and return them with how the command ended.

        Of each output the first ``most_bytes`` are kept; the rest is read and dropped. A command
        that has not ended after ``timeout_s`` seconds is killed, and TimedOut is its verdict;
        what escaped the kill and still writes is not waited for.
        """
        kept = {self.stdout: bytearray(), self.stderr: bytearray()}
        sink = _keep(kept, most_bytes)
        try:
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            pump(self, sink, stdin, deadline)
            end = self.wait(None if deadline is None else max(0.01, deadline - time.monotonic()))
        except TimeoutError:
            self.kill()
            with suppress(TimeoutError):
                pump(self, sink, None, time.monotonic() + _LAST_OUTPUT_S)
            end = Exit(self.wait(_UNWINDING_S).exit_code, TimedOut(limit_s=timeout_s or 0))
        return bytes(kept[self.stdout]), bytes(kept[self.stderr]), end

    def close(self) -> None:
        """Give everything back; a command that still runs is ended."""
        self._sock.close()
        self._pipes.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # all that ran there is gone
            wire.send(self._sock, message)


class NotStartedInTime(StartFailed):
    """The command did not run before the time for it had passed; it has been ended."""


Sink = Callable[[int, bytes], None]
"""Called with a descriptor of an Attached and what was read from it."""


def _keep(buffers: dict[int, bytearray], most_bytes: int) -> Sink:
    def keep(fd: int, data: bytes) -> None:
        buffers[fd] += data[: most_bytes - len(buffers[fd])]

    return keep


def pump(
    attached: Attached, sink: Sink, stdin: bytes | None, deadline: float | None = None
) -> None:
    """Move ``stdin`` in and both outputs out until the outputs have ended.

    ``deadline`` is in monotonic seconds. Raises TimeoutError.
    """
    with selectors.DefaultSelector() as selector:
        for fd in (attached.stdout, attached.stderr):
            selector.register(fd, selectors.EVENT_READ)
        pending = memoryview(stdin or b"")
        if attached.stdin is not None:
            os.set_blocking(attached.stdin, False)
            selector.register(attached.stdin, selectors.EVENT_WRITE)
        outputs = 2
        while outputs:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError("the command's output has not ended")
            for key, _ in selector.select(left_s):
                if key.fd == attached.stdin:
                    pending = _feed(key.fd, pending)
                    if not pending:
                        selector.unregister(key.fd)
                        attached.close_stdin()
                    continue
                try:
                    data = os.read(key.fd, _CHUNK)
                except BlockingIOError:
                    continue
                if data:
                    sink(key.fd, data)
                else:
                    selector.unregister(key.fd)
                    outputs -= 1


def _feed(fd: int, pending: memoryview) -> memoryview:
    try:
        return pending[os.write(fd, pending[:_CHUNK]) :] if pending else pending
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        return memoryview(b"")  # it has closed its input: what it did not want is dropped


def await_start(sock: socket.socket) -> int:
    """Return the pid of the command that started. Raises StartFailed and its kind."""
    try:
        message = _message(sock)
    except TimeoutError:
        raise NotStartedInTime("the command did not start in time; is the machine busy?") from None
    except (wire.Disconnected, ConnectionResetError):
        raise StartFailed(
            "the container's monitor process ended before the command ran; see spawner.log in "
            "the runtime directory"
        ) from None
    if message["event"] == "failed":
        raise error_of(message["error"]) or StartFailed("no reason was given")
    return int(message["pid"])


def await_exit(sock: socket.socket, timeout_s: float | None) -> Exit | None:
    """Return how it ended, after the monitor has closed the connection. Raises TimeoutError.

    None means that the monitor ended without a word.
    """
    sock.settimeout(timeout_s)
    result: Exit | None = None
    while True:
        try:
            message = _message(sock)
        except (wire.Disconnected, ConnectionResetError):
            break
        if message["event"] == "exited":
            result = Exit(int(message["exit_code"]), verdict_of(message["verdict"]))
            sock.settimeout(_UNWINDING_S)
        elif message["event"] == "failed":
            raise error_of(message["error"]) or StartFailed("no reason was given")
    return result


def _lost() -> Exit:
    return Exit(137, Killed(reason=state.MONITOR_KILLED))


def _message(sock: socket.socket) -> dict[str, Any]:
    message, fds = wire.receive(sock)
    for fd in fds:
        os.close(fd)
    return message
