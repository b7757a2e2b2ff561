"""A container as callers hold it: by name, whether it runs or has ended."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from . import assembly, enforcement
from .errors import Conflict, ContainerNotFound, InvalidInput, TimedOut, Verdict
from .inspection import ContainerInfo, describe, moment
from .layout import Layout
from .limits import Limits
from .request import ExecRequest
from .runtime import logs, state, wire
from .runtime.amendment import amended
from .runtime.attached import Attached, Exit, NotStartedInTime, Pipes, await_exit
from .runtime.questions import ask, exchange
from .runtime.spec import dump
from .runtime.sweep import settle
from .runtime.verdicts import verdict_of
from .stats import Stats, stats_of
from .store.containers import ContainerConfig, Containers

CAPTURE_BYTES = 64 << 20
"""How much of each output a Result keeps; the rest is read and dropped."""

_LAST_WORDS_S = 10.0
_LOOK_AGAIN_S = 0.01
_SHORTEST_S = 0.001
_GONE = (BrokenPipeError, ConnectionResetError)  # a monitor that ended after it was connected to
_KILLED_STATUS = 128 + signal.SIGKILL
_NO_FURTHER = (
    "cannot run a further command; start it again, or make one whose own command stays, as sleep "
    "infinity does"
)


@dataclass(frozen=True)
class Result:
    """A command that has ended: its status, what it wrote, and why it ended if not by itself."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    verdict: Verdict | None
    duration_s: float
    container_id: str

    def check(self) -> Result:
        """Return the result itself, or raise its verdict."""
        if self.verdict is not None:
            raise self.verdict
        return self


@dataclass(frozen=True)
class LogRecord:
    """A line, or part of one, that a container's first command wrote."""

    time: datetime
    stream: Literal["stdout", "stderr"]
    data: bytes


class Container:
    """One container of an engine. Safe to use from several threads."""

    def __init__(self, layout: Layout, containers: Containers, config: ContainerConfig) -> None:
        self._layout, self._containers, self._config = layout, containers, config
        self._directory = containers.directory(config.id)

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._config.id

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return self._directory

    @property
    def name(self) -> str:
        """The name it was given, or got."""
        return self._config.name

    def inspect(self) -> ContainerInfo:
        """Return what is known of it now."""
        return describe(self._layout, self._containers.current(self._config), self._directory)

    def runs(self) -> bool:
        """Return whether its command runs now."""
        return state.read(os.fspath(self._directory)).status == "running"

    def stats(self) -> Stats:
        """Return what it uses now. Raises Conflict, ContainerNotFound when it does not run."""
        answer = self._ask({"op": "stats"}, "cannot tell what it uses")
        if answer is None:
            raise self._not_running("uses nothing")
        return stats_of(answer)

    def update(self, limits: Limits) -> Limits:
        """Change the limits that are given, for its next starts and, while it runs, at once.

        All of them change or none does, and no process is killed for it. Returns the limits it
        has then. Raises LimitNotEnforceable, also for memory in use that the kernel cannot take
        back; InvalidInput, Conflict, ContainerNotFound, StoreFull.
        """
        fixed = {"cpuset-cpus": limits.cpuset_cpus, "blkio-weight": limits.blkio_weight}
        for name in (*limits.device_rates, *(name for name, value in fixed.items() if value)):
            what = name.replace("_", "-")
            raise InvalidInput(f"{what} cannot be changed: make the container anew with it")
        if not limits:
            raise InvalidInput("nothing to change: give a limit on memory, cpus or pids")
        enforcement.refuse_missing_processors(limits)
        request = {"op": "update", "limits": enforcement.kernel_limits(limits)}
        deadline = time.monotonic() + _LAST_WORDS_S
        while time.monotonic() < deadline:
            present = self._containers.current(self._config).limits
            wanted = enforcement.changed_limits(present, limits)  # refuses what cannot be meant
            self._refuse_replaced(limits)
            answer = self._ask(request, "cannot be updated")
            changed = wanted if answer else self._updated_at_rest(limits)
            if changed is not None:
                self._config = self._containers.current(self._config)
                return changed
            time.sleep(_LOOK_AGAIN_S)  # its start, or its end, is not complete
        raise self._restless()

    def _refuse_replaced(self, limits: Limits) -> None:
        """Raise Conflict for limits that each process was given at its start."""
        replaced = self._containers.current(self._config).replaced_limits
        asked = enforcement.kernel_limits(limits).named()
        names = [name for name in asked if name in replaced]
        if names and self.runs():
            raise Conflict(
                f"container {self.name} is limited in {' and '.join(names)} by best effort, which "
                "cannot change while it runs: stop it first"
            )

    def wait(self, timeout_s: float | None = None) -> Exit:
        """Return how its command ended, once it has. Raises TimeoutError, Conflict."""
        with self._connect() as sock:
            if sock is not None:
                return self._end_of(sock, {"op": "wait"}, timeout_s)
        return self._recorded_exit()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to its command. Raises Conflict, ContainerNotFound when it does not run."""
        with self._connect() as sock:
            if sock is None:
                raise self._not_running("cannot be signalled")
            try:
                wire.send(sock, {"op": "signal", "signal": int(signum)})
            except _GONE:
                raise self._not_running("cannot be signalled") from None
            sock.settimeout(_LAST_WORDS_S)
            with suppress(wire.Disconnected, *_GONE):  # when the signal ended it
                wire.receive(sock)

    def stop(self, grace_s: float = 10.0) -> Exit:
        """Send its stop signal and, after ``grace_s`` seconds, SIGKILL; return how it ended.

        A container that has ended already is no error.
        """
        with self._connect() as sock:
            if sock is not None:
                request = {"op": "stop", "grace_s": grace_s}
                return self._end_of(sock, request, grace_s + _LAST_WORDS_S)
        return self._recorded_exit()

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Run a further command in it and return its result.

        ``timeout`` is in seconds, from the call: code inside can hold up a command that arrives.
        What is not given is as the container's first command had it. Raises StartFailed and
        its kind, Conflict when the container does not run.
        """
        request = ExecRequest(tuple(argv), env or {}, workdir, user, interactive=stdin is not None)
        begun = time.monotonic()
        stdout, stderr = b"", b""
        try:
            with self._spawn_exec(
                request, min(timeout or _LAST_WORDS_S, _LAST_WORDS_S)
            ) as attached:
                content = stdin.encode() if isinstance(stdin, str) else stdin
                left_s = (
                    None
                    if timeout is None
                    else max(_SHORTEST_S, begun + timeout - time.monotonic())
                )
                stdout, stderr, end = attached.communicate(
                    content, most_bytes=CAPTURE_BYTES, timeout_s=left_s
                )
        except NotStartedInTime:
            if timeout is None or timeout > _LAST_WORDS_S:
                raise
            end = Exit(_KILLED_STATUS, TimedOut(limit_s=timeout))
        if timeout is not None and isinstance(end.verdict, TimedOut):
            end = Exit(end.exit_code, TimedOut(limit_s=timeout))
        duration_s = time.monotonic() - begun
        return Result(end.exit_code, stdout, stderr, end.verdict, duration_s, self.id)

    def spawn_exec(self, request: ExecRequest) -> Attached:
        """Start a further command and return it with its streams; it ends with this process.

        Raises StartFailed and its kind, Conflict when the container does not run.
        """
        return self._spawn_exec(request, _LAST_WORDS_S)

    def _spawn_exec(self, request: ExecRequest, start_within_s: float) -> Attached:
        if not request.argv:
            raise InvalidInput("nothing to execute: give a command")
        sock = self._open_connection()
        if sock is None:
            raise self._not_running(_NO_FURTHER)
        try:
            pipes = Pipes(interactive=request.interactive, channels=request.channels)
            try:
                self._send_exec(sock, request, pipes)
            except _GONE:
                pipes.close()
                raise self._not_running(_NO_FURTHER) from None
            except BaseException:
                pipes.close()
                raise
        except BaseException:
            sock.close()
            raise
        sock.settimeout(start_within_s)
        return Attached(sock, pipes)

    def _send_exec(self, sock: socket.socket, request: ExecRequest, pipes: Pipes) -> None:
        pidfd = os.pidfd_open(os.getpid())
        try:
            named = [("client", pidfd), *pipes.far]
            message = {
                "op": "exec",
                "process": dump(assembly.exec_spec(self._config, request)),
                "fds": [name for name, _ in named],
            }
            wire.send(sock, message, [fd for _, fd in named])
        finally:
            os.close(pidfd)

    def logs(self) -> Iterator[LogRecord]:
        """Yield what its first command wrote, oldest first (the last 16 to 32 MiB of it).

        What came faster than the log takes it is left out; a line of its own says how much.
        """
        for entry in logs.read(os.fspath(self._directory)):
            stream: Literal["stdout", "stderr"] = "stderr" if entry.stream == "stderr" else "stdout"
            yield LogRecord(moment(entry.time_ns / 1e9), stream, entry.data)

    def remove(self, *, force: bool = False) -> None:
        """Remove it and all that was written in it.

        Raises Conflict while it runs, unless ``force``; a start, or an end, is waited for.
        """

        def end() -> None:
            if not force:
                raise Conflict(
                    f"container {self.name} is running: stop it first, or remove it by force (-f)"
                )
            # It removed itself, or its monitor was killed just now.
            with suppress(ContainerNotFound, Conflict):
                self.stop(0)

        with self._at_rest(end):
            self._containers.remove(self._config)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Keep it from being started while the block reads its files.

        Raises Conflict while it runs; a start, or an end, is waited for. Raises
        ContainerNotFound where it was removed, also while the block ran.
        """

        def refuse() -> None:
            raise Conflict(f"container {self.name} is running: stop it first")

        with self._at_rest(refuse):
            try:
                yield
            except OSError:
                self._check_there()
                raise
            self._check_there()  # removing it, which is not kept off, begins with renaming it

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let nothing in it run while the block reads its files; whoever asks it waits.

        Raises Unsupported where the machine cannot do that, Conflict when it does not run, or
        when the block takes longer than its monitor allows (5 s).
        """
        failing = f"container {self.name} cannot be read while it runs"
        try:
            with self._connect() as sock:
                if sock is None:
                    raise self._not_running("cannot stand still")
                sock.settimeout(_LAST_WORDS_S)
                exchange(sock, {"op": "pause"}, failing)
                yield
                if exchange(sock, {"op": "go on"}, failing)["whole"]:
                    return
        except ConnectionError:
            self._check_there()
        raise Conflict(
            f"container {self.name} did not stand still until all was read: try again, or stop it "
            "first"
        )

    @contextmanager
    def _at_rest(self, when_running: Callable[[], None]) -> Iterator[None]:
        """Run the block while neither a monitor nor a process has it, and no monitor can take it.

        Until it is so it is waited for; ``when_running`` does something about a running one.
        """
        directory = os.fspath(self._directory)
        socket_path = os.fspath(self._layout.monitor_socket(self.id))
        deadline = time.monotonic() + 2 * _LAST_WORDS_S  # an end has its own
        while True:
            with suppress(FileNotFoundError):
                state.make_lock(directory)
            with state.held_off(directory) as standing:
                # What a monitor left that was killed is known nowhere else.
                if standing != "live" and settle(
                    directory, socket_path, self._containers.remove_tree
                ):
                    yield
                    return
            if standing == "live" and state.read(directory).status == "running":
                when_running()
            if time.monotonic() > deadline:
                raise self._restless()
            time.sleep(_LOOK_AGAIN_S)  # its start, or its end, is not complete

    def _check_there(self) -> None:
        if not self._directory.exists():
            raise ContainerNotFound(f"container {self.name} was removed meanwhile")

    def _updated_at_rest(self, limits: Limits) -> Limits | None:
        """Change its config unless a monitor or a process has it, None then."""
        directory = os.fspath(self._directory)
        try:
            lock = state.hold_lock(directory)
        except BlockingIOError:
            return None
        except FileNotFoundError:
            raise self._not_running("cannot be updated") from None
        try:
            present = self._containers.current(self._config)
            changed = enforcement.changed_limits(present.limits, limits)
            enforcement.refuse_unenforceable(changed, present.replaced_limits)
            with amended(directory, enforcement.kernel_limits(limits)):
                return changed
        finally:
            os.close(lock)

    def _ask(self, request: dict[str, Any], failing: str) -> dict[str, Any] | None:
        path = os.fspath(self._layout.monitor_socket(self.id))
        return ask(path, request, f"container {self.name} {failing}")

    def _restless(self) -> Conflict:
        return Conflict(f"container {self.name} does not come to rest: try again")

    def _open_connection(self) -> socket.socket | None:
        """Return a connection to its monitor, None when that has ended."""
        try:
            return wire.connect(os.fspath(self._layout.monitor_socket(self.id)))
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    def _connect(self) -> _MaybeSocket:
        return _MaybeSocket(self._open_connection())

    def _end_of(
        self, sock: socket.socket, request: dict[str, Any], timeout_s: float | None
    ) -> Exit:
        """Return how it ended after ``request``; one that was just ending has written it down."""
        try:
            wire.send(sock, request)
        except _GONE:
            return self._recorded_exit()
        return await_exit(sock, timeout_s) or self._recorded_exit()

    def _recorded_exit(self) -> Exit:
        now = state.read(os.fspath(self._directory))
        if now.exit_code is None:
            raise self._not_running("has not ended")
        return Exit(now.exit_code, verdict_of(now.verdict))

    def _not_running(self, what: str) -> Conflict:
        """Return the error, or raise ContainerNotFound."""
        self._check_there()
        status = state.read(os.fspath(self._directory)).status
        return Conflict(f"container {self.name} is not running ({status}): it {what}")


class AttachedRun(Attached):
    """The first command of a container that ends with this process."""

    def __init__(self, sock: socket.socket, pipes: Pipes, container: Container) -> None:
        self.container = container
        super().__init__(sock, pipes)


class _MaybeSocket:
    """Closes a socket, if there is one, at the end of a with statement."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock

    def __enter__(self) -> socket.socket | None:
        return self._sock

    def __exit__(self, *_: object) -> None:
        if self._sock is not None:
            self._sock.close()
