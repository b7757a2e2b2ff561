"""The life of one kernel: room, container, relay, and the end of all three."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

from cellblock_engine import AttachedRun, Engine, Exit

from ..errors import KernelNotReady
from . import house
from .connection import Connection
from .options import GateOptions
from .relay import Relay
from .reports import KILL, Report, Reporter
from .room import Room

_PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_CHUNK = 1 << 16


def live(options: GateOptions) -> int:
    """Run the kernel to its end and return its exit status.

    Raises CellblockError and its kinds, OSError, where it could not be started.
    """
    reporter = Reporter(socket.socket(fileno=0) if options.provisioned else None)
    try:
        with ExitStack() as stack:
            return Life(options, reporter, stack).run()
    except Exception as error:
        with suppress(OSError):
            reporter.send(Report(failure=str(error)))
        raise


class Life:
    """What one kernel needs, from its start to its end."""

    def __init__(self, options: GateOptions, reporter: Reporter, stack: ExitStack) -> None:
        self._options, self._reporter = options, reporter
        parent = int(os.environ.get("JPY_PARENT_PID") or os.getppid())
        self._parent = os.pidfd_open(parent)
        stack.callback(os.close, self._parent)
        self._signals = _signal_pipe(stack)
        front = Connection.read(options.connection_file)
        self._relay = stack.enter_context(Relay(front))
        engine = stack.enter_context(Engine.open())
        if front.transport == "ipc":
            self._room = Room(Path(front.ip).parent)
        else:
            self._room = Room.make(engine.kernels)
            stack.callback(self._room.remove)
        self._key = secrets.token_hex(32).encode()
        self._room.furnish(self._key, front.kernel_name)
        self._attached = stack.enter_context(self._start(engine))

    def run(self) -> int:
        """Relay until the kernel has ended."""
        relay, attached = self._relay, self._attached
        relay.watch(self._parent, self._end)
        relay.watch(self._signals, self._pass_on_signals)
        relay.watch(attached.fileno(), relay.stop)
        for fd, sink in ((attached.stdout, sys.stdout), (attached.stderr, sys.stderr)):
            relay.watch(fd, lambda fd=fd, sink=sink: self._show(fd, sink.fileno()))
        if self._reporter.sock is not None:
            relay.watch(0, self._on_word)
        self._await_sockets()
        relay.connect(self._room.back(self._key))
        self._reporter.send(Report(attached.container.id, attached.pid))
        relay.run()
        relay.drain()
        return attached.wait().exit_code

    def _start(self, engine: Engine) -> AttachedRun:
        if self._options.container is not None:
            return engine.spawn(self._options.container)
        return engine.spawn(house.request(self._options, self._room, os.environ, Path.cwd()))

    def _await_sockets(self) -> None:
        while not self._room.await_sockets(0):
            self._relay.turn(0.005)
            if self._relay.stopped:
                raise KernelNotReady(_why(self._attached.wait()))

    def _pass_on_signals(self) -> None:
        for number in os.read(self._signals, _CHUNK):
            self._attached.signal(number)

    def _on_word(self) -> None:
        if os.read(0, 1) == KILL:
            self._attached.signal(signal.SIGKILL)
        else:
            self._relay.unwatch(0)

    def _end(self) -> None:
        self._attached.signal(signal.SIGKILL)
        self._relay.unwatch(self._parent)

    def _show(self, fd: int, sink: int) -> None:
        try:
            text = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if not text:
            self._relay.unwatch(fd)
            return
        with suppress(OSError):
            os.write(sink, text)


def _signal_pipe(stack: ExitStack) -> int:
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, read_end)
    stack.callback(os.close, write_end)
    signal.set_wakeup_fd(write_end)
    for number in _PASSED_ON:
        signal.signal(number, _noted)
    return read_end


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Say nothing: the number is in the pipe."""


def _why(end: Exit) -> str:
    return f"the kernel ended before it could be talked to: {end.verdict or f'exit status {end.exit_code}'}"
