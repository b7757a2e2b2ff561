"""The life of one kernel: room, container, relay, and the end of all three."""

from __future__ import annotations

import os
import secrets
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import zmq

from cellblock_engine import (
    AttachedRun,
    CellblockError,
    ContainerNotFound,
    Engine,
    Exit,
    InvalidInput,
    RunRequest,
    TimedOut,
    best_effort_line,
    parse_seconds,
)

from ..errors import KernelNotReady
from . import callers, house, memory, room
from .certificate import Certificate
from .connection import Connection
from .farewell import SWAPPED, SWAPPED_LINE, farewells
from .guard import Guard
from .hostcells import HostCells
from .ledger import Ledger
from .operation import Failure
from .options import GateOptions, Successor
from .recorder import Recorder, notebook_name
from .refusals import Refusals
from .relay import Relay
from .reports import KILL, SWAP, Report, Reporter
from .rules import Rule
from .tenant import Tenant

_GRACE_S = 5.0
_TICK_S = 0.004
_CHUNK = 1 << 16
_LAST_WORDS_MS = 3000
_MOST_START_S = 60.0


def live(options: GateOptions, reporter: Reporter) -> int:
    """Run the kernel to its end and return its exit status.

    Raises CellblockError and its kinds, OSError, where it could not be started.
    """
    with ExitStack() as stack:
        return _Life(options, reporter, stack).run()


@dataclass(frozen=True)
class _Succession:
    """What a host cell wants in the kernel's place, and whom to tell how that went."""

    successor: Successor
    end: Callable[[Failure | None], None]


class _Life:
    """What one kernel needs, from its start to its end."""

    def __init__(self, options: GateOptions, reporter: Reporter, stack: ExitStack) -> None:
        self._options, self._reporter = options, reporter
        limit = options.kernel.timeout
        self._limit_s = None if limit is None else parse_seconds(limit)
        self._environ = house.environment(options.kernel, os.environ)
        self._parents = callers.parents(stack)
        self._signals = callers.signal_pipe(stack)
        self._kill_at: float | None = None
        self._timed_out = self._asked = False
        self._wanted: deque[str | _Succession] = deque()
        self._front = Connection.read(options.connection_file)
        self._ledger = Ledger()
        self._guard = Guard(self._ledger) if options.kernel.untrusted else None
        self._refusals = Refusals(self._ledger)
        self._recorder = Recorder(notebook_name(os.environ, Path.cwd()))
        self._host_cells = HostCells(self._ledger, self._recorder)
        rules: list[Rule] = [self._ledger, self._refusals, self._host_cells, self._recorder]
        if self._guard is not None:
            rules.insert(0, self._guard)
        self._relay = stack.enter_context(_relay(self._front, rules))
        if self._guard is not None:
            self._guard.passage = self._relay
        self._host_cells.succeed = self._want
        stack.callback(self._host_cells.close)
        self._engine = stack.enter_context(Engine.open())
        if options.provisioned:
            self._room = room.Room.of(self._front)
        else:
            kernels = self._engine.kernel_sockets()
            room.sweep(kernels, self._engine)
            self._room = stack.enter_context(room.Room.make(kernels))
        self._key = _new_key()
        self._room.furnish(self._key, self._front.kernel_name)
        self._kernel = Tenant(self._start(), self._relay)
        if self._kernel.container.id == options.container:
            self._recorder.load(self._room.record)
        stack.callback(self._close)
        self._settle_in()
        reporter.send(Report(container=self._kernel.container.id))

    def run(self) -> int:
        """Relay until the kernel, or whoever started this, has ended."""
        relay = self._relay
        for parent in self._parents:
            relay.watch(parent, relay.stop)
        relay.watch(self._signals, self._pass_on_signals)
        if self._reporter.sock is not None:
            relay.watch(self._reporter.sock.fileno(), self._on_words)
        with memory.bounded():
            self._connect()
        while not relay.stopped:
            with memory.bounded():
                while not (relay.stopped or self._wanted):
                    self._turn(None)
            if self._wanted and not relay.stopped:
                self._obey(self._wanted.popleft())
        with memory.bounded():
            self._host_cells.close()
            if select.select(self._parents, [], [], 0)[0]:
                self._room.remove()  # its owner cannot any more
                return 0  # closing the connection abandons the container, which then goes
            end = self._kernel.attached.wait()
            if self._timed_out and self._limit_s is not None:
                end = Exit(end.exit_code, TimedOut(limit_s=self._limit_s))
            relay.drain()
            if not self._is_asked():
                self._certify(Certificate.of(end))
            relay.deliver()
        return self._end(end)

    def swap(self, what: str | RunRequest, settled: Callable[[], None] = lambda: None) -> None:
        """Let the kernel of another container take this one's place; front ends keep their sockets.

        The container was made for this room, and does not run, or is to be made. Until its kernel
        can be talked to the one that is there goes on, and does so when that fails: raises
        CellblockError and its kinds, OSError. Then ``settled`` is called, what is open is answered,
        and the old container goes, unless it is to be kept. To be called between turns, where
        memory is not bounded: it starts processes.
        """
        if isinstance(what, str):
            self._refuse_stranger(what)
        key = _new_key()
        with self._room.refurnished(key, self._front.kernel_name):
            newcomer = Tenant(self._engine.spawn(what, env=self._environ), self._relay)
            try:
                with memory.bounded():
                    self._await_newcomer(newcomer)
                    self._kernel.end()
                    self._relay.drain()
                    settled()
                    self._take_leave()
                    self._relay.swap(self._room.back(key))
            except BaseException:
                with suppress(TimeoutError):
                    newcomer.end()  # one that was found stays
                newcomer.close()
                if isinstance(what, RunRequest):
                    with suppress(CellblockError, OSError):
                        newcomer.container.remove(force=True)
                raise
            before, self._kernel = self._kernel, newcomer
            self._recorder.clear()
        self._settle_in()
        before.show_rest()
        before.close()
        if not self._options.kernel.keep:
            before.container.remove()

    def _take_leave(self) -> None:
        """Answer all that is open, also what comes up because something before it is answered."""
        self._host_cells.abandon(Failure(SWAPPED, SWAPPED_LINE))
        self._wanted = deque(each for each in self._wanted if isinstance(each, str))
        while True:
            said = tuple(farewells(self._ledger))
            self._ledger.clear()
            for channel, message in said:
                self._relay.pass_outward(channel, message, self._ledger)
            if not self._ledger.open_requests():
                break
        if self._guard is not None:
            self._guard.clear()

    def _close(self) -> None:
        self._kernel.close()

    def _settle_in(self) -> None:
        """Let the kernel's end be the gate's, from now on and in its time."""
        self._relay.watch(self._kernel.attached.fileno(), self._relay.stop)
        self._refusals.serve(self._kernel.container)
        self._host_cells.serve(self._kernel.container.id, self._relay)
        if not self._options.kernel.keep:  # what is kept is nobody's to sweep
            self._room.note(self._kernel.container.id)
        self._kill_at = None if self._limit_s is None else time.monotonic() + self._limit_s

    def _connect(self) -> None:
        """Return when the kernel can be talked to, or somebody has said stop."""
        relay = self._relay
        while not (relay.stopped or self._room.has_sockets()):
            self._turn(_TICK_S)
        if not relay.stopped:
            relay.connect(self._room.back(self._key))
            self._reporter.send(Report(container=self._kernel.container.id, ready=True))

    def _await_newcomer(self, newcomer: Tenant) -> None:
        """Return when it can be talked to. Raises KernelNotReady."""
        deadline_s = time.monotonic() + _MOST_START_S
        while not self._room.has_sockets():
            if self._relay.stopped:
                raise KernelNotReady("the kernel ended before another could take its place")
            if newcomer.has_ended():
                raise KernelNotReady(newcomer.why_not_started(newcomer.attached.wait()))
            if time.monotonic() > deadline_s:
                raise KernelNotReady(f"the kernel did not start within {_MOST_START_S:g} s")
            self._turn(_TICK_S)

    def _refuse_stranger(self, identifier: str) -> None:
        """Raise InvalidInput for a container whose kernel's sockets could not be found."""
        inside = os.path.realpath(self._room.inside)
        container = self._engine.container(identifier)
        if not any(
            os.path.realpath(bind.source) == inside and bind.target == room.INSIDE
            for bind in container.inspect().binds
        ):
            raise InvalidInput(
                f"container {container.name} was not made for this kernel: {room.INSIDE} in it is "
                "not this kernel's"
            )

    def _want(self, successor: Successor, end: Callable[[Failure | None], None]) -> None:
        self._wanted.append(_Succession(successor, end))

    def _obey(self, wanted: str | _Succession) -> None:
        """Swap, and tell who wanted it how that went: the provisioner, or a host cell."""
        failure = None
        try:
            if isinstance(wanted, str):
                self.swap(wanted)
            else:
                request = house.succession(
                    self._options,
                    wanted.successor,
                    self._kernel.container.inspect().limits,  # those of now
                    self._room,
                    self._environ,
                )
                self.swap(request, partial(wanted.end, None))
        except (CellblockError, OSError) as error:
            if isinstance(wanted, str):
                failure = str(error)
            else:
                wanted.end(Failure(type(error).__name__, str(error)))
        # Also after a host cell: a restart is of the container that there is now.
        now = self._kernel.container.id
        self._reporter.send(Report(container=now, ready=failure is None, failure=failure))

    def _start(self) -> AttachedRun:
        if self._options.container is not None:
            # Gone where the gate before this one was killed: then there is nothing to keep.
            with suppress(ContainerNotFound):
                return self._engine.spawn(self._options.container, env=self._environ)
        attached = self._engine.spawn(
            house.request(self._options, self._room, self._environ, Path.cwd())
        )
        replaced = self._options.kernel.limits and attached.container.inspect().replaced_limits
        if replaced:
            print(f"cellblock: {best_effort_line(replaced)}", file=sys.stderr)
        return attached

    def _turn(self, timeout_s: float | None) -> None:
        if self._kill_at is not None:
            left_s = self._kill_at - time.monotonic()
            if left_s <= 0:
                self._timed_out = not self._asked
                self._kernel.attached.signal(signal.SIGKILL)
                self._kill_at = None
            else:
                timeout_s = left_s if timeout_s is None else min(left_s, timeout_s)
        self._relay.turn(timeout_s)

    def _is_asked(self) -> bool:
        """Return whether the end was wanted: a cell that ran needs no reason then."""
        return self._asked or self._ledger.shutdown_asked

    def _certify(self, certificate: Certificate) -> None:
        """Tell the cells that have lost their kernel. They get no reply: it would be made up."""
        for cell in self._ledger.lost_cells():
            self._relay.linger_ms = _LAST_WORDS_MS
            message = certificate.message(cell.message.header)
            self._relay.pass_outward("iopub", message, self._ledger)

    def _end(self, end: Exit) -> int:
        """Show what is left; what becomes of the container is the provisioner's, if any."""
        self._kernel.show_rest()
        if self._options.provisioned:
            self._recorder.leave(self._room.record, self._ledger.lost_cells())
        if not (self._options.provisioned or self._options.kernel.keep):
            self._kernel.container.remove()
        if not self._relay.connected:
            raise KernelNotReady(self._kernel.why_not_started(end))
        if (end.verdict is not None or end.exit_code) and not self._is_asked():
            print(f"cellblock: {Certificate.of(end).line}", file=sys.stderr)
        return end.exit_code

    def _pass_on_signals(self) -> None:
        for number in os.read(self._signals, _CHUNK):
            if number == signal.SIGINT and not self._ledger.answers:
                continue  # it is for a running cell, and would end a kernel that is starting
            if number == signal.SIGINT and self._host_cells.interrupt():
                continue
            self._asked |= number in (signal.SIGTERM, signal.SIGHUP)
            self._kernel.attached.signal(number)
            if number == signal.SIGTERM and not self._options.provisioned:
                self._kill_at = time.monotonic() + _GRACE_S

    def _on_words(self) -> None:
        assert self._reporter.sock is not None
        words = self._reporter.hear()
        if words is None:
            self._relay.unwatch(self._reporter.sock.fileno())
            return
        for name, *arguments in words:
            if name == KILL:
                self._asked = True
                self._kernel.attached.signal(signal.SIGKILL)
            elif name == SWAP:
                self._wanted += arguments


def _new_key() -> bytes:
    return secrets.token_hex(32).encode()


def _relay(front: Connection, rules: Sequence[Rule]) -> Relay:
    try:
        return Relay(front, rules)
    except zmq.ZMQError as error:
        raise KernelNotReady(
            f"the kernel cannot listen at {front.transport}://{front.ip}: {error}"
        ) from error
