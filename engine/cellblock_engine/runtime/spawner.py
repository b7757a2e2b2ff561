"""The process that forks monitors: small, single-threaded, and of nobody's memory but its own.

It accepts a connection, forks a monitor that reads the request, and reaps: its monitors, and
what killed monitors leave. It leaves when it has had nothing to do for a while, or when its
socket was taken away. Monitors do not need it to live on.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import NoReturn

from ..errors import LimitNotEnforceable
from ..linux import cgroups, fake_ids, seccomp, userns
from ..linux import syscalls as linux
from . import init, monitor
from .remains import remove_noted
from .sandbox import Surroundings
from .spec import DELEGATED, UNASKED
from .sweep import sweep

_IDLE_S = 60.0
_TICK_S = 5.0


class Spawner:
    """Accepts, forks, reaps, sweeps."""

    def __init__(
        self,
        containers: str,
        names: str,
        ids: str,
        lock: str,
        *,
        inode: int,
        listener_fd: int,
        told: str,
    ) -> None:
        self._listener = socket.socket(fileno=listener_fd)
        self._listener.settimeout(0)
        self._path = self._listener.getsockname()
        self._inode = inode
        self._lock = lock
        self._places = (containers, names, os.path.dirname(self._path))
        self._ids = ids
        # Whoever started it was killed before it had groups for it: the next one shall ask anew.
        self._leaves_at_once = not told
        self._monitors: set[int] = set()
        self._spare: tuple[int, socket.socket] | None = None
        self._around = Surroundings(
            init.CommandLine.own(),
            userns.allotted_slots(),
            seccomp.host_filter(),
            fake_ids.host_filter(),
            _undelegated(told),
        )
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        _forget_caller()
        self._wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def serve(self) -> None:
        """Serve until there is nothing left to do."""
        swept = self._sweep()
        gc.collect()
        gc.freeze()  # a collection in a child would copy every page it looks at
        busy_until = time.monotonic() + _IDLE_S
        while True:
            ready = {fd for fd, _ in self._poll.poll(_TICK_S * 1000)}
            if self._wake in ready:
                os.read(self._wake, 4096)
            if self._reap() or not swept:
                swept = self._sweep()
            if self._listener.fileno() in ready:
                self._accept()
            else:
                # Not right after a connection: its start has use for every processor.
                self._spare = self._spare or self._fork_spare()
            if ready or self._monitors:
                busy_until = time.monotonic() + _IDLE_S
            if time.monotonic() > busy_until or not self._is_reachable() or self._leaves_at_once:
                break
        self._leave()

    def _sweep(self) -> bool:
        return sweep(*self._places, lambda directory: remove_noted(directory, self._ids))

    def _accept(self) -> bool:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return False
        pid, line = self._spare or self._fork_spare()
        self._spare = None
        # Should the spare have been killed, the client finds its connection closed.
        with client, line, suppress(BrokenPipeError):
            socket.send_fds(line, [b"!"], [client.fileno()])
        self._monitors.add(pid)
        return True

    def _fork_spare(self) -> tuple[int, socket.socket]:
        """Fork the next monitor before it is asked for; it waits for its client on the line."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_monitor(theirs)
        theirs.close()
        return pid, ours

    def _be_monitor(self, line: socket.socket) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._listener.close()
            _, fds, _, _ = socket.recv_fds(line, 1, 1)
            line.close()
            status = 0 if not fds or self._monitor(socket.socket(fileno=fds[0])) else 2
        finally:
            if status == 1:
                sys.excepthook(*sys.exc_info())
            os._exit(status)

    def _monitor(self, client: socket.socket) -> bool:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        client_pid, uid, _ = struct.unpack("3i", credentials)
        return uid not in (0, os.geteuid()) or monitor.run(client, client_pid, self._around)

    def _reap(self) -> bool:
        """Reap whoever ended; tell whether a monitor did not end in order."""
        disorder = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return disorder
            if pid == 0:
                return disorder
            if self._spare is not None and pid == self._spare[0]:
                self._spare[1].close()
                self._spare = None
            if pid in self._monitors:
                self._monitors.remove(pid)
                disorder |= status != 0

    def _is_reachable(self) -> bool:
        try:
            return os.stat(self._path).st_ino == self._inode
        except FileNotFoundError:
            return False

    def _leave(self) -> None:
        """Take the socket away, then serve whoever had connected before that."""
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            pass  # the runtime directory is gone, and the socket with it
        else:
            # Against a caller that starts the next spawner at this moment.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_reachable():
                os.unlink(self._path)
            os.close(lock)
        while self._accept():
            pass
        if self._spare is not None:
            self._spare[1].close()
        with suppress(ChildProcessError):
            while True:
                os.wait()


def _undelegated(told: str) -> str:
    """Take the scope that systemd gave; return why there is none, or none was asked for."""
    if told == UNASKED:
        return "the spawner was started where systemd gives no groups"
    if told != DELEGATED:
        return told or "whoever started the spawner was killed meanwhile: try again"
    try:
        cgroups.settle(os.getpid())
    except (OSError, LimitNotEnforceable) as error:
        return f"the scope that systemd gave cannot be used: {error}"
    return "systemd has taken back the scope of the spawner"


def _forget_caller() -> None:
    """Shed what the first caller happened to have: it would reach the containers of all others."""
    os.umask(0o022)
    linux.personality(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(PermissionError):  # an ordinary user may not take niceness back
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with open("/proc/self/oom_score_adj", "rb") as file:
        spared = int(file.read()) < 0
    if spared:
        with open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"0")
