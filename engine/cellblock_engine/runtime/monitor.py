"""One container's life, from request to unwinding: one process, always in the host's namespaces.

It starts the sandbox and the first command, keeps the log, serves whoever connects (signals,
waits, further commands), and when the first command ends, ends everything. Its client's
connection is closed last of all, so that its end of file means: nothing is left.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from ..errors import CellblockError, StartFailed
from ..linux import cgroups
from ..linux.processes import identity
from ..removal import Removal
from ..store import trees
from . import remains, state, verdicts, wire
from .amendment import amended, recorded_limits
from .commands import Commands, signal_name
from .descriptors import Descriptors
from .failures import as_error, removed_meanwhile
from .logs import LogWriter
from .loop import Loop, Timer
from .pause import Pause
from .process import Process, StageFailed
from .recording import Recording
from .sandbox import Sandbox, Surroundings, group_name
from .spec import StartSpec, load_start
from .streams import OUTWARD, Relay, pipe_for_container

_REQUEST_PATIENCE_S = 10.0
_INTERRUPT_GRACE_S = 2.0
_DELIVERY_PATIENCE_S = 10.0
_ACCEPT_AGAIN_S = 1.0


class Monitor:
    """Serves one container on one loop."""

    def __init__(self, spec: StartSpec, client: socket.socket, stack: ExitStack) -> None:
        self._spec, self._client, self._stack = spec, client, stack
        self._loop = Loop()
        self._log = LogWriter(spec.directory)
        stack.callback(self._log.close)
        self._state = state.State()
        self._clients: set[socket.socket] = set()
        self._waiters: list[socket.socket] = []
        self._relays: list[Relay] = []
        self._signals: set[int] = set()
        self._killed: str | None = None
        self._notes: state.Notes | None = None
        self._client_pidfd = -1
        self._timed_out = False
        self._deadline: Timer | None = None
        self._result: dict[str, Any] = {}

    def start(self, client_pid: int, around: Surroundings, fds: Descriptors) -> None:
        """Bring the first command to run. Raises StageFailed, CellblockError, OSError."""
        try:
            lock = state.hold_lock(self._spec.directory)
        except BlockingIOError as error:
            raise StartFailed(
                "the container already runs, or is being started or committed"
            ) from error
        self._stack.callback(os.close, lock)
        if self._spec.again:
            self._take_over()
        spec = self._spec
        # Before it is made: a monitor killed in between would leave a group nobody knows of.
        controllers = cgroups.granted(client_pid, around.undelegated)
        caller = None
        if spec.foreground and spec.removal is Removal.IF_ABANDONED:
            caller = identity(client_pid)
        self._notes = state.Notes(lock, controllers.places(group_name(spec)), caller)
        self.sandbox = Sandbox(spec, controllers, around, self._stack)
        self._recording = Recording(self._loop, self.sandbox, self._stack)
        self._commands = Commands(self._loop, self.sandbox, self._recording)
        self._pause = Pause(self._loop, self.sandbox.group)
        # While init builds the root.
        self._listen()
        with ExitStack() as given:
            stdin = fds.take_stdin()
            given.callback(os.close, stdin)
            sinks = {name: fds.take(name) for name in ("stdout", "stderr")}
            words = self._open_words(sinks["stderr"], given) if spec.allow_hosts else None
            outputs = [self._output(name, sink) for name, sink in sinks.items()]
            channels = fds.take_all("channel")
            for fd in (*outputs, *channels):
                given.callback(os.close, fd)
            stdio = (stdin, outputs[0], outputs[1])
            try:
                self._first = Process(
                    self.sandbox.assignment(spec.process, stdio, channels, occupied=False)
                )
            except StageFailed:
                self.sandbox.wait_ready(words)  # if init has failed, that is the reason
                raise
            self.sandbox.wait_ready(words)
        self._first.release()
        self._first.confirm()
        self._recording.take(self._first.take_listener())
        self._state = replace(
            self._state, status="running", pid=self._first.pid, started_at=time.time()
        )
        state.write(spec.directory, self._state)
        self._loop.watch(self._first.pidfd, self._on_exit)
        if spec.timeout_s is not None:
            self._deadline = self._loop.after(spec.timeout_s, self._on_timeout)

    def _take_over(self) -> None:
        """Make ready what was there before this start; its limits may have changed since."""
        self._spec = replace(
            self._spec, limits=recorded_limits(self._spec.directory).over(self._spec.limits)
        )
        for tree in self._spec.overlays:
            # An upper that was mounted volatile is refused while its mark is in here. What a
            # loss of power may have cut short is the user's to judge.
            remains.remove(f"{tree.upper}/work/work", self._spec.id_maps)

    def serve(self, client_pidfd: int | None) -> None:
        """Answer until the container has ended and its output is delivered."""
        wire.tell(self._client, {"event": "started", "pid": self._first.pid})
        if self._spec.foreground:
            self._loop.watch(self._client.fileno(), self._on_client)
            if client_pidfd is not None:
                # A child of the client can hold the connection open after the client's death.
                self._client_pidfd = client_pidfd
                self._loop.watch(client_pidfd, self._on_client_death)
        self._loop.run()

    def record(self, afterwards: ExitStack) -> None:
        """Leave the final state on disk, or nothing at all where that was asked for.

        What was written in a container is deleted ``afterwards``, when nobody waits any more.
        """
        if self._spec.removal is Removal.AT_END or self._is_abandoned():
            afterwards.callback(self._delete, put_aside(self._spec))
        else:
            self._keep()
            state.write(self._spec.directory, self._state)

    def record_failure(self, afterwards: ExitStack) -> None:
        """Leave what was there before the start, or nothing where nobody is left to have it."""
        if not self._spec.again or (self._notes is not None and self._notes.caller_is_gone()):
            afterwards.callback(remains.remove, put_aside(self._spec), self._spec.id_maps)
        else:
            self._keep()

    def farewell(self) -> None:
        """Tell everybody how it ended."""
        for client in (self._client, *self._waiters):
            wire.tell(client, self._result)

    def close(self) -> None:
        """Close the connections, which tells the clients that nothing is left."""
        for client in (*self._clients, self._client):
            client.close()

    def _is_abandoned(self) -> bool:
        """Tell whether the caller is gone before it could be told of the end.

        Not whether its death was seen first: that closes the command's input too, at whose end
        the command may end by itself.
        """
        if self._notes is None or self._notes.caller is None:
            return False
        return self._notes.caller_is_gone() or _has_hung_up(self._client)

    def _keep(self) -> None:
        """Say that nobody can abandon it any more."""
        if self._notes is not None:
            self._notes.forget_caller()

    def _delete(self, directory: str) -> None:
        # Its lock file notes the groups that the next sweep has yet to remove.
        if self.sandbox.is_gone:
            remains.remove(directory, self._spec.id_maps)

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
        source, write_end = pipe_for_container(OUTWARD)
        relay = Relay(self._loop, self._log, stream, source, sink)
        relay.on_end = self._on_delivered
        self._relays.append(relay)
        self._stack.callback(relay.close)
        return write_end

    def _open_words(self, stderr: int | None, given: ExitStack) -> int:
        """Return where the broker tells what it denies, beside what the command says itself."""
        words = self._output("stderr", None if stderr is None else os.dup(stderr))
        given.callback(os.close, words)
        return words

    # Clients

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors: whoever waits gets in when some have been given back.
            self._loop.unwatch(listener.fileno())
            again = lambda: self._loop.watch(listener.fileno(), lambda: self._accept(listener))  # noqa: E731
            self._loop.after(_ACCEPT_AGAIN_S, again)
            return
        client.settimeout(_REQUEST_PATIENCE_S)
        self._clients.add(client)
        self._loop.watch(client.fileno(), lambda: self._on_request(client))

    def _on_request(self, client: socket.socket) -> None:
        if self._pause.puts_off(client, lambda: self._on_request(client)):
            return
        try:
            message, received = wire.receive(client)
        except (OSError, ValueError, KeyError, TypeError):
            self._drop(client)
            return
        try:
            fds = Descriptors(message.get("fds", []), received)
            try:
                self._answer(client, message, fds)
            finally:
                fds.close()
        except (StageFailed, CellblockError, OSError) as error:
            failure = as_error(error, self._spec.process)
            wire.tell(client, {"event": "failed", "error": failure})
        except (KeyError, TypeError, ValueError) as error:
            kind = type(error).__name__
            text = f"the request is not understood ({kind}): engine and monitor may differ"
            failure = {"kind": "StartFailed", "message": text}
            wire.tell(client, {"event": "failed", "error": failure})

    def _answer(self, client: socket.socket, message: dict[str, Any], fds: Descriptors) -> None:
        command = self._commands.of(client)
        match message["op"]:
            case "signal" if command is not None:
                command.process.signal(int(message["signal"]))
            case "interrupt" if command is not None:
                command.process.interrupt()
            case "kill" if command is not None:
                command.process.kill_group()
            case "signal":
                self._signal(int(message["signal"]))
                wire.tell(client, {"event": "signalled"})
            case "wait":
                self._waiters.append(client)
            case "stop":
                self._waiters.append(client)
                self._signal(self._spec.stop_signal)
                self._loop.after(float(message["grace_s"]), lambda: self._signal(signal.SIGKILL))
            case "exec":
                self._commands.start(client, message["process"], fds)
            case "stats":
                wire.tell(client, self._stats())
            case "pause":
                self._pause.begin(client)
                wire.tell(client, {"event": "paused"})
            case "go on":
                wire.tell(client, {"event": "went on", "whole": self._pause.end()})
            case "update":
                wire.tell(client, self._update(cgroups.Limits(*message["limits"])))
            case other:
                raise ValueError(other)

    def _stats(self) -> dict[str, Any]:
        usage = self.sandbox.group.usage()
        return {
            "event": "stats",
            "usage": usage._asdict(),
            "limits": self.sandbox.limits._asdict(),
            "monotonic_s": time.monotonic(),
        }

    def _update(self, limits: cgroups.Limits) -> dict[str, Any]:
        """Change its limits now and for its next starts."""
        asked = limits.over(self._spec.limits)
        with amended(self._spec.directory, asked):
            self.sandbox.update(asked)
        self._spec = replace(self._spec, limits=asked)
        return {"event": "updated", "limits": asked}

    def _drop(self, client: socket.socket) -> None:
        """Its client went away: a further command ends with it."""
        self._loop.unwatch(client.fileno())
        self._clients.discard(client)
        if client in self._waiters:
            self._waiters.remove(client)
        self._pause.drop(client)
        self._commands.drop(client)
        client.close()

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
            case "kill":
                self._signal(signal.SIGKILL)

    def _on_client_death(self) -> None:
        self._loop.unwatch(self._client.fileno())
        self._loop.unwatch(self._client_pidfd)
        for relay in self._relays:
            relay.abandon_client()
        self._killed = "the process that ran it ended"
        self._first.signal(signal.SIGKILL)
        self._on_delivered()  # nobody is left to deliver to

    # The end

    def _signal(self, number: int) -> None:
        if self._state.status == "exited":
            return  # it is reaped, and only its output still being delivered
        self._signals.add(number)
        self._first.signal(number)

    def _on_timeout(self) -> None:
        self._timed_out = True
        self._first.interrupt()
        self._loop.after(_INTERRUPT_GRACE_S, lambda: self._first.signal(signal.SIGKILL))

    def _on_exit(self) -> None:
        self._loop.unwatch(self._first.pidfd)
        self._pause.end()  # what stands still does not end
        if self._deadline is not None:
            self._deadline.cancel()
        exit_code = self._first.reap()
        full_bytes = self.sandbox.full_bytes()
        self.sandbox.kill()
        self._commands.reap_all()
        self.sandbox.end()
        killed = self._killed
        if killed is None and exit_code - 128 in self._signals:
            killed = f"by {signal_name(exit_code - 128)}, as asked"
        verdict = verdicts.decide(
            exit_code=exit_code,
            counters=self.sandbox.group.counters,
            limits=self.sandbox.limits,
            timed_out_s=self._spec.timeout_s if self._timed_out else None,
            killed=killed,
            full_bytes=full_bytes,
        )
        self._state = replace(
            self._state,
            status="exited",
            pid=None,
            finished_at=time.time(),
            exit_code=exit_code,
            verdict=verdict,
        )
        self._result = {"event": "exited", "exit_code": exit_code, "verdict": verdict}
        self._loop.after(_DELIVERY_PATIENCE_S, self._loop.stop)
        self._on_delivered()

    def _on_delivered(self) -> None:
        if self._state.status == "exited" and all(relay.done for relay in self._relays):
            self._loop.stop()


def run(client: socket.socket, client_pid: int, around: Surroundings) -> bool:
    """Be the monitor of the container that ``client`` asks for.

    Returns when nothing is left, and True; False where something is left for a sweep.
    """
    client.settimeout(_REQUEST_PATIENCE_S)
    try:
        message, received = wire.receive(client)
    except wire.Disconnected:
        return True
    with ExitStack() as afterwards, ExitStack() as last:
        fds = Descriptors(message["fds"], received)
        last.callback(fds.close)
        spec = load_start(message["start"])
        # What a process list shows of it, and what a container sees of a command on its way in.
        around.command_line.overwrite(b"cellblock-monitor " + spec.id[:12].encode())
        with ExitStack() as stack:
            monitor = Monitor(spec, client, stack)
            last.callback(monitor.close)
            client_pidfd = fds.take("client")
            if client_pidfd is not None:
                last.callback(os.close, client_pidfd)
            try:
                monitor.start(client_pid, around, fds)
            except (StageFailed, CellblockError, OSError) as error:
                failure = as_error(error, spec.process)
                if not os.path.isdir(spec.directory):
                    failure = removed_meanwhile(os.path.basename(spec.name_link))
                monitor.record_failure(afterwards)
                wire.tell(client, {"event": "failed", "error": failure})
                return True
            monitor.serve(client_pidfd)
            monitor.record(afterwards)
            monitor.farewell()
    return monitor.sandbox.is_gone


def put_aside(spec: StartSpec) -> str:
    """Take the container's directory and name out of sight; return where the directory is now.

    Should the monitor be killed before it is removed, the next sweep does it.
    """
    with suppress(OSError):
        if os.readlink(spec.name_link) == os.path.basename(spec.directory):
            os.unlink(spec.name_link)
    return trees.put_aside(spec.directory)


def _has_hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, 0)  # POLLHUP is told of always
    return bool(poll.poll(0))


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
