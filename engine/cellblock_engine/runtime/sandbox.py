"""A container's namespaces, root and cgroup, alive through its init; commands are put into it.

Everything acquired sits on the caller's ExitStack and is given back in reverse order.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import ExitStack, suppress
from typing import NamedTuple, NoReturn

from ..errors import LimitNotEnforceable
from ..linux import cgroups, idmaps, userns
from ..linux import syscalls as linux
from . import figures, init, rootfs, wire, workload
from .process import StageFailed
from .root.overlays import SCRATCH
from .spec import ProcessSpec, StartSpec

DEFAULT_PIDS = 4096
"""Processes and threads where no limit was asked for and one can be set: a bound for fork bombs."""

_PATIENCE_S = 30.0
_LOOK_AGAIN_S = 0.02
_NOBODY = 65534
_FAKED = frozenset({"CHOWN", "SETGID", "SETUID"})  # who may not, is not told that it did
_NAMESPACES = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
)


class Surroundings(NamedTuple):
    """What the spawner prepared once for all its monitors."""

    command_line: init.CommandLine
    allotted_slots: frozenset[int]
    seccomp_program: bytes
    fake_ids_program: bytes
    undelegated: str
    """Why systemd gave it no groups, if it did not."""


class Sandbox:
    """An init in its namespaces, and what belongs to it."""

    def __init__(
        self,
        spec: StartSpec,
        controllers: cgroups.Controllers,
        around: Surroundings,
        stack: ExitStack,
    ) -> None:
        """Start init and make the cgroup; the root is ready after :meth:`wait_ready`.

        ``controllers`` are those of the caller, below whose own group the container's is.

        Raises StageFailed, LimitNotEnforceable, OSError.
        """
        self._spec, self._around, self._stack = spec, around, stack
        self._controllers = controllers
        self.is_gone = False
        self._kept: dict[str, int] = {}
        self._groups = controllers.shown(group_name(spec), spec.limits)
        base: int | None = None
        if spec.id_ranges is not None:
            base, lock_fd = userns.acquire_range(spec.id_ranges, around.allotted_slots)
            stack.callback(os.close, lock_fd)
        # Undone last: what is in the group must be gone before the group can be.
        group_stack = stack.enter_context(ExitStack())
        self._base = base
        self._children: dict[int, int] = {}  # pid and pidfd: init, and the broker if there is one
        self._init_pid, pidfd, self._sock = self._start_init()
        stack.callback(self._sock.close)
        self._own(self._init_pid, pidfd)
        if base is None:
            idmaps.give(self._init_pid, spec.id_maps or idmaps.single())
        else:
            userns.map_range(self._init_pid, base)
        self.namespaces = self._open_namespaces()
        self.limits = spec.limits
        by_default = cgroups.Limits(pids=DEFAULT_PIDS)
        if spec.limits.pids is None and controllers.refused(by_default) is None:
            self.limits = spec.limits.over(by_default)
        if not self._groups:
            self._send_clones(base)  # init builds the root while the group is made
        self.group = controllers.create(group_name(spec), self.limits)
        group_stack.callback(self._remove_group)
        if self._groups:
            self._send_clones(base)
        self._entrance = self.group.entrance()
        for fd in self._entrance.fds:
            stack.callback(os.close, fd)

    def wait_ready(self, words: int | None = None) -> None:
        """Return when the root is built and init is out of reach; the broker is started before.

        It tells what it denies on the descriptor ``words``. Raises StageFailed, OSError.
        """
        message, fds = wire.receive(self._sock)
        if "listener" in message and words is not None:
            try:
                self._start_broker(fds[0], words)
            finally:
                os.close(fds[0])
            message, fds = wire.receive(self._sock)
        if "kept" in message:
            for name, fd in zip(message["kept"], fds, strict=True):
                self._kept[name] = fd
                self._stack.callback(os.close, fd)
            message, _ = wire.receive(self._sock)
        if "uid" in message and self._base is not None:
            self._send_binds(self._base, int(message["uid"]), int(message["gid"]))
            message, _ = wire.receive(self._sock)
        if "ready" not in message:
            raise StageFailed.of(message)

    def assignment(
        self,
        process: ProcessSpec,
        stdio: tuple[int, int, int],
        channels: tuple[int, ...],
        *,
        occupied: bool,
    ) -> workload.Assignment:
        """Return what a command needs to enter; the descriptors stay the caller's.

        ``occupied`` says that code of the image may be inside already, and watch it come.
        """
        return workload.Assignment(
            process,
            self.namespaces,
            self._spec.is_rootless,
            self._spec.ids,
            occupied,
            self._entrance,
            stdio,
            channels,
            self._around.seccomp_program,
            self._around.fake_ids_program if self._is_faked(process) else b"",
        )

    def _is_faked(self, process: ProcessSpec) -> bool:
        """Tell whether changes of ids and owners are answered as if there were more than one."""
        return self._spec.ids.is_single and _FAKED.issubset(process.capabilities)

    def start_recorder(self, line: socket.socket) -> None:
        """Start who answers changes of owners, for the listeners that come on ``line``."""
        monitor = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_recorder(line, monitor)
        self._own(pid, os.pidfd_open(pid))

    def update(self, limits: cgroups.Limits) -> None:
        """Limit it so from now on where a limit is set: all of them or none.

        Raises LimitNotEnforceable, OSError.
        """
        if reason := self._controllers.refused(limits):
            raise LimitNotEnforceable(reason)
        limits = limits.over(self.limits)
        told = figures.PLACES & self._kept.keys()
        texts = {place: figures.figures(place, self._spec.told(limits)).encode() for place in told}
        self.group.update(limits)
        self.limits = limits
        for place, text in texts.items():
            os.pwrite(self._kept[place], text, 0)
            os.ftruncate(self._kept[place], len(text))

    def kill(self) -> None:
        """Kill init, and with it everything inside, without waiting; the broker as well."""
        for pidfd in self._children.values():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def end(self) -> None:
        """Kill init, and with it everything inside, and the broker; return when all is gone.

        The kernel keeps init until every command inside is reaped: those that the monitor has
        not reaped itself are reaped here. Raises TimeoutError.
        """
        if not self._children:
            return
        self.kill()
        deadline = time.monotonic() + _PATIENCE_S
        while self._children:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                self._children.pop(pid, None)
            elif time.monotonic() > deadline:
                raise TimeoutError("the container's processes do not end")
            else:
                select.select(list(self._children.values()), [], [], _LOOK_AGAIN_S)

    def full_bytes(self) -> int | None:
        """Return the size of the memory that takes what is written, if nothing more fits in.

        None also where the disk takes it: no file system counts what it has refused.
        """
        scratch = self._kept.get(SCRATCH)
        if scratch is None:
            return None
        room = os.fstatvfs(scratch)
        return None if room.f_bfree and room.f_ffree else self._spec.storage_bytes

    def _remove_group(self) -> None:
        with suppress(OSError):  # somebody else put a process or group into it
            self.group.remove()
            self.is_gone = True

    def _start_init(self) -> tuple[int, int, socket.socket]:
        ours, theirs = wire.pair()
        network = linux.CLONE_NEWNET if self._spec.own_network else 0
        pid, pidfd = linux.clone3(_NAMESPACES | network)
        if pid == 0:
            ours.close()
            init.run(self._spec, self._groups, theirs, self._around.command_line)
        theirs.close()
        ours.settimeout(_PATIENCE_S)
        return pid, pidfd, ours

    def _own(self, pid: int, pidfd: int) -> None:
        """End a process with the container, whichever way that ends."""
        self._children[pid] = pidfd
        self._stack.callback(os.close, pidfd)
        self._stack.callback(self.end)

    def _start_broker(self, listener: int, words: int) -> None:
        """Start who lets connections out. The command need not wait for it: its connections do."""
        monitor = os.getpid()
        pid = os.fork()  # not clone3: it will have threads
        if pid == 0:
            self._be_broker(listener, words, monitor)
        self._own(pid, os.pidfd_open(pid))

    def _be_broker(self, listener: int, words: int, monitor: int) -> NoReturn:
        try:
            self._around.command_line.overwrite(f"cellblock-broker {self._spec.id[:12]}".encode())
            from ..network import broker  # noqa: PLC0415 - nobody else has use for it

            identity = self._nobody()
            hosts, program = self._spec.allow_hosts, self._around.seccomp_program
            broker.run(broker.Post(listener, words, hosts, identity, program, monitor))
        finally:
            os._exit(1)

    def _nobody(self) -> int | None:
        """Return a user of the container's, who is nobody on the host, as this process sees it.

        For an ordinary user such ids are there only where the container's are, so the broker
        goes there. That gives it nothing: its files and its network stay the host's, of which
        it keeps no more than anybody may read.
        """
        if self._base is not None:
            return self._base + _NOBODY
        if self._spec.ids.is_single:
            return None
        linux.setns(self.namespaces.user, linux.CLONE_NEWUSER)
        return min(_NOBODY, *(count - 1 for count in self._spec.ids))

    def _be_recorder(self, line: socket.socket, monitor: int) -> NoReturn:
        try:
            name = f"cellblock-recorder {self._spec.id[:12]}"
            self._around.command_line.overwrite(name.encode())
            from . import recorder  # noqa: PLC0415 - most containers do without

            namespaces = self.namespaces
            recorder.run(recorder.Post(line, namespaces.user, namespaces.mnt, monitor))
        finally:
            os._exit(1)

    def _open_namespaces(self) -> workload.Namespaces:
        """Open them while init is still dumpable: later an ordinary user may not."""

        def namespace(name: str) -> int:
            fd = os.open(f"/proc/{self._init_pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            self._stack.callback(os.close, fd)
            return fd

        net = namespace("net") if self._spec.own_network else None
        return workload.Namespaces(
            namespace("user"),
            namespace("pid"),
            namespace("mnt"),
            namespace("ipc"),
            namespace("uts"),
            net,
        )

    def _send_binds(self, base: int, uid: int, gid: int) -> None:
        """Send init the binds: the caller's ids on disk are the command's in the container."""
        if not (0 <= uid < userns.RANGE_SIZE and 0 <= gid < userns.RANGE_SIZE):
            raise StageFailed("user", 0, "its ids are not among the container's")
        with ExitStack() as opened:
            bridge = userns.bridge((os.geteuid(), base + uid), (os.getegid(), base + gid))
            opened.callback(os.close, bridge)
            clones = []
            for source in rootfs.sources(rootfs.attachments(self._spec)):
                clones.append(source.open(bridge))
                opened.callback(os.close, clones[-1])
            wire.send(self._sock, {"binds": True}, clones)

    def _send_clones(self, base: int | None) -> None:
        """Tell init that its ids are mapped; as root, with the clones only root can make."""
        with ExitStack() as opened:
            clones = []
            if base is not None:
                for source in rootfs.sources(rootfs.plan(self._spec, self._groups)):
                    clones.append(source.open(self.namespaces.user))
                    opened.callback(os.close, clones[-1])
            wire.send(self._sock, {"mapped": True}, clones)


def group_name(spec: StartSpec) -> str:
    """Return the name of the container's cgroup."""
    return f"cellblock-{spec.id[:12]}"
