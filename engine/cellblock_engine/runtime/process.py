"""A command of a container as the monitor sees it: started, released, signalled, reaped."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress

from ..linux import syscalls as linux
from . import wire, workload

_PATIENCE_S = 30.0


class StageFailed(Exception):
    """A step inside the container failed; carries the stage, the errno and a line of text."""

    def __init__(self, stage: str, code: int, text: str) -> None:
        super().__init__(text)
        self.stage, self.code, self.text = stage, code, text

    @classmethod
    def of(cls, message: dict[str, object]) -> StageFailed:
        """Return the failure that :func:`.workload.report` sent."""
        code = message.get("errno")
        return cls(
            str(message.get("stage")),
            code if isinstance(code, int) else 0,
            str(message.get("text"))[:1000],
        )


class Process:
    """A command on its way into, or in, a container. The maker reaps it with :meth:`reap`."""

    def __init__(self, assignment: workload.Assignment) -> None:
        """Fork it as far as the namespaces that exist from the beginning. Raises StageFailed."""
        ours, theirs = wire.pair()
        ours.settimeout(_PATIENCE_S)
        self._sock = ours
        self._listener: int | None = None
        with theirs:
            by_helper = assignment.is_rootless or assignment.occupied
            start = _start_by_helper if by_helper else _start_directly
            self.pid, self.pidfd = start(assignment, ours, theirs)

    def fileno(self) -> int:
        """Readable once :meth:`confirm` would not wait."""
        return self._sock.fileno()

    def release(self) -> None:
        """Let it go on: the root is ready."""
        self._sock.send(b"!")

    def confirm(self) -> None:
        """Wait until it runs the command. Raises StageFailed if it never will."""
        while not self.hear():
            pass

    def hear(self) -> bool:
        """Take in what it says next; tell whether it runs the command.

        Raises StageFailed if it never will.
        """
        try:
            message, fds = wire.receive(self._sock)
            if "listener" in message and fds:
                self._listener = fds[0]
                return False
        except wire.Disconnected:
            self._sock.close()
            return True
        except BaseException:
            self._forget()
            raise
        self._forget()
        for fd in fds:
            os.close(fd)
        raise StageFailed.of(message)

    def take_listener(self) -> int | None:
        """Hand over the listener of its filter, if it has told of one."""
        listener, self._listener = self._listener, None
        return listener

    def _forget(self) -> None:
        self._sock.close()
        listener = self.take_listener()
        if listener is not None:
            os.close(listener)

    _is_reaped = False

    def signal(self, number: int) -> None:
        """Send a signal to exactly this process; nothing if it has ended."""
        if self._is_reaped:
            return  # its descriptor and its id may be others' by now
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def interrupt(self) -> None:
        """Send SIGINT to it and to what it started in its process group, as a terminal does.

        It leads a session of its own; until it is reaped nobody else can have its group's id.
        """
        if self._is_reaped:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)

    def kill_group(self) -> None:
        """Kill it and what it started in its process group; nothing if it has ended."""
        if self._is_reaped:
            return
        self.signal(signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Return its exit status as a shell would say it (128 + signal), once it has ended."""
        _, status = os.waitpid(self.pid, 0)
        self._is_reaped = True
        os.close(self.pidfd)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def _start_directly(
    assignment: workload.Assignment, ours: socket.socket, theirs: socket.socket
) -> tuple[int, int]:
    """Clone into the pid namespace: only what children are born into changes, and changes back."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(assignment.namespaces.pid, linux.CLONE_NEWPID)
        pid, pidfd = linux.clone3(0, cgroup=assignment.entrance.directory)
        if pid == 0:
            ours.close()
            workload.become(assignment, theirs)
        linux.setns(own, linux.CLONE_NEWPID)
    except OSError as error:
        raise StageFailed("enter", error.errno or 0, str(error.strerror)) from error
    finally:
        os.close(own)
    return pid, pidfd


def _start_by_helper(
    assignment: workload.Assignment, ours: socket.socket, theirs: socket.socket
) -> tuple[int, int]:
    helper = os.fork()
    if helper == 0:
        ours.close()
        workload.enter_by_helper(assignment, theirs)
    try:
        message, fds = wire.receive(ours)
    finally:
        os.waitpid(helper, 0)
    if not fds:
        raise StageFailed.of(message)
    return int(message["pid"]), fds[0]
