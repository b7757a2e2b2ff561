"""Further commands in a running container, each for the client of one connection."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from typing import Any

from ..linux.cgroups import Counters
from . import verdicts, wire
from .descriptors import Descriptors
from .failures import as_error
from .loop import Loop
from .process import Process, StageFailed
from .recording import Recording
from .sandbox import Sandbox
from .spec import ProcessSpec, load_process


class Command:
    """A command, the connection it reports on, and the counters from before it."""

    def __init__(
        self,
        spec: ProcessSpec,
        process: Process,
        client: socket.socket,
        client_pidfd: int | None,
        before: Counters,
    ) -> None:
        self.spec, self.process, self.client, self.before = spec, process, client, before
        self.client_pidfd = client_pidfd
        self.is_confirmed = False


class Commands:
    """Starts, watches and reaps the further commands of one sandbox."""

    def __init__(self, loop: Loop, sandbox: Sandbox, recording: Recording) -> None:
        self._loop, self._sandbox, self._recording = loop, sandbox, recording
        self._running: list[Command] = []

    def of(self, client: socket.socket) -> Command | None:
        """Return the command that reports to this client."""
        return next((command for command in self._running if command.client is client), None)

    def start(self, client: socket.socket, plain: dict[str, Any], fds: Descriptors) -> None:
        """Start one. Raises StageFailed, OSError, and ValueError or so for a bad request."""
        spec = load_process(plain)
        before = self._sandbox.group.counters()
        with ExitStack() as given:
            stdin = fds.take_stdin()
            given.callback(os.close, stdin)
            stdout, stderr = fds.take("stdout"), fds.take("stderr")
            channels = fds.take_all("channel")
            for fd in (stdout, stderr, *channels):
                if fd is not None:
                    given.callback(os.close, fd)
            if stdout is None or stderr is None:
                raise ValueError("stdout and stderr are needed")
            stdio = (stdin, stdout, stderr)
            process = Process(self._sandbox.assignment(spec, stdio, channels, occupied=True))
        process.release()
        command = Command(spec, process, client, fds.take("client"), before)
        self._running.append(command)
        if command.client_pidfd is not None:
            # A child of the client can hold the connection open after the client's death.
            self._loop.watch(command.client_pidfd, lambda: self.drop(client))
        # Not awaited here: a command in a throttled cgroup must not hold up the others.
        self._loop.watch(process.fileno(), lambda: self._on_word(command))
        self._loop.watch(process.pidfd, lambda: self._on_exit(command))

    def drop(self, client: socket.socket) -> None:
        """End the command whose client is gone, and what it started in its process group."""
        command = self.of(client)
        if command is not None:
            self._forget_client(command)
            command.process.kill_group()

    def reap_all(self) -> None:
        """Reap what is left, after the sandbox has been killed."""
        for command in list(self._running):
            self._on_exit(command)

    def _forget_client(self, command: Command) -> None:
        pidfd, command.client_pidfd = command.client_pidfd, None
        if pidfd is not None:
            self._loop.unwatch(pidfd)
            os.close(pidfd)

    def _on_word(self, command: Command) -> None:
        """Take in what it says on its way; in the end, that it runs or never will."""
        process = command.process
        self._loop.unwatch(process.fileno())
        try:
            command.is_confirmed = process.hear()
            if command.is_confirmed:
                wire.tell(command.client, {"event": "started", "pid": process.pid})
            else:
                self._recording.take(process.take_listener())
                self._loop.watch(process.fileno(), lambda: self._on_word(command))
        except (StageFailed, OSError) as error:
            command.is_confirmed = True
            failure = as_error(error, command.spec)
            wire.tell(command.client, {"event": "failed", "error": failure})

    def _on_exit(self, command: Command) -> None:
        while not command.is_confirmed:
            self._on_word(command)  # its client hears of the start, or its failure, first
        self._loop.unwatch(command.process.pidfd)
        self._loop.unwatch(command.client.fileno())
        self._forget_client(command)
        self._running.remove(command)
        exit_code = command.process.reap()
        verdict = verdicts.decide(
            exit_code=exit_code,
            counters=lambda: self._sandbox.group.counters().since(command.before),
            limits=self._sandbox.limits,
            timed_out_s=None,
            killed=None,
            full_bytes=self._sandbox.full_bytes(),
        )
        wire.tell(command.client, {"event": "exited", "exit_code": exit_code, "verdict": verdict})
        command.client.close()


def signal_name(number: int) -> str:
    """Return ``SIGTERM``, or ``signal 40`` for one that has only a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
