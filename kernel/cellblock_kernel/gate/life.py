"""The life of one kernel: room, container, relay, and the end of all three."""

from __future__ import annotations

import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import zmq

from cellblock_engine import AttachedRun, ContainerNotFound, Engine, Exit

from ..errors import KernelNotReady
from . import house, memory, room
from .aside import Aside
from .connection import Connection
from .ledger import Ledger
from .options import GateOptions
from .relay import Relay
from .reports import KILL, Report, Reporter
from .rules import Rule

_PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_GRACE_S = 5.0
_TICK_S = 0.004
_CHUNK = 1 << 16


def live(options: GateOptions, reporter: Reporter) -> int:
    """Run the kernel to its end and return its exit status.

    Raises CellblockError and its kinds, OSError, where it could not be started.
    """
    with ExitStack() as stack:
        return _Life(options, reporter, stack).run()


class _Life:
    """What one kernel needs, from its start to its end."""

    def __init__(self, options: GateOptions, reporter: Reporter, stack: ExitStack) -> None:
        self._options, self._reporter = options, reporter
        self._parents = _parents(stack)
        self._signals = _signal_pipe(stack)
        self._kill_at: float | None = None
        self._asked = False
        front = Connection.read(options.connection_file)
        self._ledger = Ledger()
        self._relay = stack.enter_context(_relay(front, [self._ledger]))
        self._engine = stack.enter_context(Engine.open())
        if options.provisioned:
            self._room = room.Room.of(front)
        else:
            kernels = self._engine.kernel_sockets()
            room.sweep(kernels, self._engine)
            self._room = stack.enter_context(room.Room.make(kernels))
        self._key = secrets.token_hex(32).encode()
        self._room.furnish(self._key, front.kernel_name)
        self._attached = stack.enter_context(self._start())
        self._asides = {self._attached.stdout: Aside(1), self._attached.stderr: Aside(2)}
        if not options.kernel.keep:  # what is kept is nobody's to sweep
            self._room.note(self._attached.container.id)
        reporter.send(Report(container=self._attached.container.id))

    def run(self) -> int:
        """Relay until the kernel, or whoever started this, has ended."""
        relay, attached = self._relay, self._attached
        for parent in self._parents:
            relay.watch(parent, relay.stop)
        relay.watch(self._signals, self._pass_on_signals)
        relay.watch(attached.fileno(), relay.stop)
        for fd in self._asides:
            relay.watch(fd, partial(self._show, fd))
        if self._reporter.sock is not None:
            relay.watch(self._reporter.sock.fileno(), self._on_word)
        with memory.bounded():
            self._pass_on_messages()
            if select.select(self._parents, [], [], 0)[0]:
                self._room.remove()  # its owner cannot any more
                return 0  # closing the connection abandons the container, which then goes
            end = attached.wait()
            relay.drain()
        return self._end(end)

    def _pass_on_messages(self) -> None:
        """Return when somebody has said stop. Raises KernelNotReady for what is no socket."""
        relay = self._relay
        while not (relay.stopped or self._room.has_sockets()):
            self._turn(_TICK_S)
        if not relay.stopped:
            relay.connect(self._room.back(self._key))
            self._reporter.send(Report(container=self._attached.container.id, ready=True))
        while not relay.stopped:
            self._turn(None)

    def _start(self) -> AttachedRun:
        environ = house.environment(self._options.kernel, os.environ)
        if self._options.container is not None:
            # Gone where the gate before this one was killed: then there is nothing to keep.
            with suppress(ContainerNotFound):
                return self._engine.spawn(self._options.container, env=environ)
        return self._engine.spawn(house.request(self._options, self._room, environ, Path.cwd()))

    def _turn(self, timeout_s: float | None) -> None:
        if self._kill_at is not None:
            left_s = self._kill_at - time.monotonic()
            if left_s <= 0:
                self._attached.signal(signal.SIGKILL)
                self._kill_at = None
            else:
                timeout_s = left_s if timeout_s is None else min(left_s, timeout_s)
        self._relay.turn(timeout_s)

    def _end(self, end: Exit) -> int:
        """Show what is left; what becomes of the container is the provisioner's, if any."""
        for fd in self._asides:
            self._show(fd)
        if not (self._options.provisioned or self._options.kernel.keep):
            self._attached.container.remove()
        if not self._relay.connected:
            raise KernelNotReady(self._why(end))
        if end.verdict is not None and not self._asked:
            print(f"cellblock: the kernel ended: {end.verdict}", file=sys.stderr)
        return end.exit_code

    def _why(self, end: Exit) -> str:
        reason = str(end.verdict) if end.verdict else f"exit status {end.exit_code}"
        out, err = (aside.last_line() for aside in self._asides.values())
        last = err or out
        return f"the kernel did not start: {reason}" + (f" ({last})" if last else "")

    def _pass_on_signals(self) -> None:
        for number in os.read(self._signals, _CHUNK):
            if number == signal.SIGINT and not self._relay.connected:
                continue  # it is for a running cell, and would end a kernel that is starting
            self._asked |= number in (signal.SIGTERM, signal.SIGHUP)
            self._attached.signal(number)
            if number == signal.SIGTERM and not self._options.provisioned:
                self._kill_at = time.monotonic() + _GRACE_S

    def _on_word(self) -> None:
        assert self._reporter.sock is not None
        if self._reporter.sock.recv(1) == KILL:
            self._asked = True
            self._attached.signal(signal.SIGKILL)
        else:
            self._relay.unwatch(self._reporter.sock.fileno())

    def _show(self, fd: int) -> None:
        """Pass on what the kernel writes beside its channels, as a local kernel would."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        self._asides[fd].feed(data)
        if not data:
            self._relay.unwatch(fd)


def _relay(front: Connection, rules: Sequence[Rule]) -> Relay:
    try:
        return Relay(front, rules)
    except zmq.ZMQError as error:
        raise KernelNotReady(
            f"the kernel cannot listen at {front.transport}://{front.ip}: {error}"
        ) from error


def _parents(stack: ExitStack) -> list[int]:
    """Return pidfds of whoever started this: its parent, and whom a wrapper of that names.

    Raises KernelNotReady where one of them has ended.
    """
    pidfds = []
    for pid in {os.getppid(), int(os.environ.get("JPY_PARENT_PID") or os.getppid())}:
        try:
            pidfds.append(os.pidfd_open(pid))
        except ProcessLookupError:
            raise KernelNotReady(f"process {pid}, which wanted the kernel, has ended") from None
        stack.callback(os.close, pidfds[-1])
    return pidfds


def _signal_pipe(stack: ExitStack) -> int:
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, read_end)
    stack.callback(os.close, write_end)
    stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(write_end))
    for number in _PASSED_ON:
        signal.signal(number, _noted)
    return read_end


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the number is in the pipe."""
