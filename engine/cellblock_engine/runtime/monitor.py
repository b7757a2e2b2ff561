"""One container's life, from request to unwinding: one process, always in the host's namespaces.

It starts the sandbox and the first command, keeps the log, serves whoever connects (signals,
waits, further commands), and when the first command ends, ends everything. Its client's
connection is closed last of all, so that its end of file means: nothing is left.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from ..errors import CellblockError
from ..linux.cgroups import Counters
from ..store.trees import remove_tree
from . import state, verdicts, wire
from .failures import as_error
from .logs import LogWriter
from .loop import Loop, Timer
from .process import Process, StageFailed
from .sandbox import Sandbox, Surroundings
from .spec import ProcessSpec, StartSpec, load_process, load_start
from .streams import Relay, pipe_for_container

_REQUEST_PATIENCE_S = 10.0
_INTERRUPT_GRACE_S = 2.0
_DELIVERY_PATIENCE_S = 10.0


class Streams:
    """The descriptors a request brought, by name; closed by :meth:`close` unless taken."""

    def __init__(self, names: list[str], fds: list[int]) -> None:
        self._fds = list(zip(names, fds, strict=True))

    def take(self, name: str) -> int | None:
        """Hand over the next descriptor of this name, None if there is none."""
        for index, (held, fd) in enumerate(self._fds):
            if held == name:
                del self._fds[index]
                return fd
        return None

    def take_all(self, name: str) -> tuple[int, ...]:
        """Hand over all of this name, in order."""
        taken = tuple(fd for held, fd in self._fds if held == name)
        self._fds = [(held, fd) for held, fd in self._fds if held != name]
        return taken

    def close(self) -> None:
        """Close what nobody took."""
        while self._fds:
            os.close(self._fds.pop()[1])


class Command:
    """A further command in the running container, for the client of one connection."""

    def __init__(self, process: Process, client: socket.socket, before: Counters) -> None:
        self.process, self.client, self.before = process, client, before


class Monitor:
    """Serves one container on one loop."""

    def __init__(
        self, spec: StartSpec, client: socket.socket, stack: ExitStack, last: ExitStack
    ) -> None:
        self._spec, self._client, self._stack, self._last = spec, client, stack, last
        self._loop = Loop()
        self._log = LogWriter(spec.directory)
        self._stack.callback(self._log.close)
        self._state = state.State()
        self._waiters: list[socket.socket] = []
        self._commands: list[Command] = []
        self._relays: list[Relay] = []
        self._signals: set[int] = set()
        self._killed: str | None = None
        self._timed_out = False
        self._deadline: Timer | None = None
        self._result: dict[str, Any] = {}

    def start(self, client_pid: int, around: Surroundings, streams: Streams) -> None:
        """Bring the first command to run. Raises what :func:`.failures.as_error` understands."""
        spec, stack = self._spec, self._stack
        stack.callback(os.close, state.hold_lock(spec.directory))
        self._listen()
        self._sandbox = Sandbox(spec, client_pid, around, stack)
        self._state = state.State(cgroups=self._sandbox.group.paths)
        state.write(spec.directory, self._state)
        with ExitStack() as given:
            stdin = streams.take("stdin")
            if stdin is None:
                stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            given.callback(os.close, stdin)
            outputs = [self._output(name, streams.take(name)) for name in ("stdout", "stderr")]
            channels = streams.take_all("channel")
            for fd in (*outputs, *channels):
                given.callback(os.close, fd)
            stdio = (stdin, outputs[0], outputs[1])
            try:
                self._first = Process(self._sandbox.assignment(spec.process, stdio, channels))
            except StageFailed:
                self._sandbox.wait_ready()  # if init has failed, that is the reason
                raise
        try:
            self._sandbox.wait_ready()
            self._first.release()
            self._first.confirm()
        except BaseException:
            self._first.abandon()
            raise
        self._state = replace(
            self._state, status="running", pid=self._first.pid, started_at=time.time()
        )
        state.write(spec.directory, self._state)
        self._loop.watch(self._first.pidfd, self._on_exit)
        if spec.timeout_s is not None:
            self._deadline = self._loop.after(spec.timeout_s, self._on_timeout)

    def serve(self, client_pidfd: int | None) -> None:
        """Answer until the container has ended and its output is delivered."""
        _send(self._client, {"event": "started", "pid": self._first.pid})
        if self._spec.foreground:
            self._loop.watch(self._client.fileno(), self._on_client)
            if client_pidfd is not None:
                # A child of the client can hold the connection open after the client's death.
                self._loop.watch(client_pidfd, self._on_client_death)
        self._loop.run()

    def farewell(self) -> None:
        """Tell everybody how it ended; their connections are closed by the unwinding."""
        for client in (self._client, *self._waiters):
            _send(client, self._result)

    def _listen(self) -> None:
        path = self._spec.socket
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stack.callback(listener.close)
        _unlink(path)
        listener.bind(path)
        self._stack.callback(_unlink, path)
        listener.listen(64)
        listener.settimeout(0)
        self._loop.watch(listener.fileno(), lambda: self._accept(listener))

    def _output(self, stream: str, sink: int | None) -> int:
        source, write_end = pipe_for_container()
        relay = Relay(self._loop, self._log, stream, source, sink)
        relay.on_end = self._on_delivered
        self._relays.append(relay)
        self._stack.callback(relay.close)
        return write_end

    # Clients

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        client.settimeout(_REQUEST_PATIENCE_S)
        self._last.callback(client.close)
        self._loop.watch(client.fileno(), lambda: self._on_request(client))

    def _on_request(self, client: socket.socket) -> None:
        try:
            message, fds = wire.receive(client)
        except (OSError, ValueError):
            self._drop(client)
            return
        try:
            streams = Streams(message.get("fds", []), fds)
            try:
                self._answer(client, message, streams)
            finally:
                streams.close()
        except (KeyError, TypeError, ValueError) as error:
            kind = type(error).__name__
            text = f"the request is not understood ({kind}): engine and monitor may differ"
            _send(client, {"event": "failed", "error": {"kind": "StartFailed", "message": text}})

    def _answer(self, client: socket.socket, message: dict[str, Any], streams: Streams) -> None:
        command = self._command_of(client)
        match message["op"]:
            case "signal" if command is not None:
                command.process.signal(int(message["signal"]))
            case "interrupt" if command is not None:
                command.process.interrupt()
            case "signal":
                self._signal(int(message["signal"]))
                _send(client, {"event": "signalled"})
            case "wait":
                self._waiters.append(client)
            case "stop":
                self._waiters.append(client)
                self._signal(self._spec.stop_signal)
                self._loop.after(float(message["grace_s"]), lambda: self._signal(signal.SIGKILL))
            case "exec":
                self._execute(client, message, streams)
            case other:
                raise ValueError(other)

    def _drop(self, client: socket.socket) -> None:
        """Its client went away: a further command ends with it."""
        self._loop.unwatch(client.fileno())
        if client in self._waiters:
            self._waiters.remove(client)
        command = self._command_of(client)
        if command is not None:
            command.process.signal(signal.SIGKILL)
        client.close()

    def _command_of(self, client: socket.socket) -> Command | None:
        return next((command for command in self._commands if command.client is client), None)

    def _on_client(self) -> None:
        try:
            message, fds = wire.receive(self._client)
        except (OSError, ValueError):
            self._on_client_death()
            return
        for fd in fds:
            os.close(fd)
        match message.get("op"):
            case "signal":
                self._signal(int(message["signal"]))
            case "interrupt":
                self._signals.add(signal.SIGINT)
                self._first.interrupt()

    def _on_client_death(self) -> None:
        self._loop.unwatch(self._client.fileno())
        for relay in self._relays:
            relay.abandon_client()
        self._killed = "the process that ran it ended"
        self._first.signal(signal.SIGKILL)

    # Further commands

    def _execute(self, client: socket.socket, message: dict[str, Any], streams: Streams) -> None:
        spec = load_process(message["process"])
        before = self._sandbox.group.counters()
        with ExitStack() as given:
            stdin = streams.take("stdin")
            if stdin is None:
                stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            outputs = (streams.take("stdout"), streams.take("stderr"))
            channels = streams.take_all("channel")
            for fd in (stdin, *outputs, *channels):
                if fd is not None:
                    given.callback(os.close, fd)
            stdout, stderr = outputs
            if stdout is None or stderr is None:
                raise ValueError("stdout and stderr are needed")
            assignment = self._sandbox.assignment(spec, (stdin, stdout, stderr), channels)
            try:
                process = Process(assignment)
            except (StageFailed, OSError) as error:
                _send(client, {"event": "failed", "error": as_error(error, spec)})
                return
        process.release()
        command = Command(process, client, before)
        self._commands.append(command)
        # Not awaited here: a command in a throttled cgroup must not hold up the others.
        self._loop.watch(process.fileno(), lambda: self._on_confirmed(command, spec))
        self._loop.watch(process.pidfd, lambda: self._on_command_exit(command))

    def _on_confirmed(self, command: Command, spec: ProcessSpec) -> None:
        self._loop.unwatch(command.process.fileno())
        try:
            command.process.confirm()
            _send(command.client, {"event": "started", "pid": command.process.pid})
        except (StageFailed, OSError) as error:
            _send(command.client, {"event": "failed", "error": as_error(error, spec)})

    def _on_command_exit(self, command: Command) -> None:
        self._loop.unwatch(command.process.pidfd)
        self._loop.unwatch(command.process.fileno())
        self._loop.unwatch(command.client.fileno())
        self._commands.remove(command)
        exit_code = command.process.reap()
        counters = self._sandbox.group.counters()
        verdict = verdicts.decide(
            exit_code=exit_code,
            counters=counters.since(command.before),
            limits=self._sandbox.limits,
            timed_out_s=None,
            killed=None,
        )
        _send(command.client, {"event": "exited", "exit_code": exit_code, "verdict": verdict})
        command.client.close()

    # The end

    def _signal(self, number: int) -> None:
        self._signals.add(number)
        self._first.signal(number)

    def _on_timeout(self) -> None:
        self._timed_out = True
        self._first.interrupt()
        self._loop.after(_INTERRUPT_GRACE_S, lambda: self._first.signal(signal.SIGKILL))

    def _on_exit(self) -> None:
        self._loop.unwatch(self._first.pidfd)
        if self._deadline is not None:
            self._deadline.cancel()
        exit_code = self._first.reap()
        self._sandbox.kill()
        for command in list(self._commands):
            self._on_command_exit(command)
        self._sandbox.end()
        counters = self._sandbox.group.counters()
        killed = self._killed
        if killed is None and exit_code - 128 in self._signals:
            killed = f"by {signal.Signals(exit_code - 128).name}, as asked"
        verdict = verdicts.decide(
            exit_code=exit_code,
            counters=counters,
            limits=self._sandbox.limits,
            timed_out_s=self._spec.timeout_s if self._timed_out else None,
            killed=killed,
        )
        self._state = replace(
            self._state,
            status="exited",
            pid=None,
            finished_at=time.time(),
            exit_code=exit_code,
            verdict=verdict,
            cgroups=(),
        )
        self._result = {"event": "exited", "exit_code": exit_code, "verdict": verdict}
        self._loop.after(_DELIVERY_PATIENCE_S, self._loop.stop)
        self._on_delivered()

    def _on_delivered(self) -> None:
        if self._state.status == "exited" and all(relay.done for relay in self._relays):
            self._loop.stop()

    def record(self) -> None:
        """Leave the final state on disk, or nothing at all where that was asked for."""
        if self._spec.remove:
            remove_container(self._spec)
        else:
            state.write(self._spec.directory, self._state)


def run(client: socket.socket, client_pid: int, around: Surroundings) -> None:
    """Be the monitor of the container that ``client`` asks for. Returns when nothing is left."""
    client.settimeout(_REQUEST_PATIENCE_S)
    try:
        message, fds = wire.receive(client)
    except wire.Disconnected:
        return
    with ExitStack() as last:
        last.callback(client.close)
        streams = Streams(message["fds"], fds)
        last.callback(streams.close)
        spec = load_start(message["start"])
        try:
            with ExitStack() as stack:
                monitor = Monitor(spec, client, stack, last)
                client_pidfd = streams.take("client")
                if client_pidfd is not None:
                    last.callback(os.close, client_pidfd)
                monitor.start(client_pid, around, streams)
                monitor.serve(client_pidfd)
                monitor.record()
                monitor.farewell()
        except (StageFailed, CellblockError, OSError) as error:
            remove_container(spec)
            _send(client, {"event": "failed", "error": as_error(error, spec.process)})


def remove_container(spec: StartSpec) -> None:
    """Take the container's directory and name away."""
    if os.path.islink(spec.name_link):
        _unlink(spec.name_link)
    remove_tree(spec.directory)


def _send(client: socket.socket, message: dict[str, Any]) -> None:
    """Send to a client that may be gone; that is its own affair."""
    try:
        wire.send(client, message)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF):
            raise


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
