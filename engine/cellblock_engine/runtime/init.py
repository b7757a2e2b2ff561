"""PID 1 of a container: it makes the root, steps out of reach, and waits for its end.

It runs no program and answers nobody: whoever holds the other end of its socket ends it by
closing that, and the kernel ends everything else in the pid namespace with it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from ..linux import capabilities, idmaps, netlink
from ..linux import syscalls as linux
from . import identity, rootfs, wire
from .spec import PROXY_PORT, StartSpec
from .workload import refuse_imports, report, reset_signals, resolve_user


class CommandLine(NamedTuple):
    """Where this process's argument strings lie in memory, to be overwritten."""

    start: int
    end: int

    @classmethod
    def own(cls) -> CommandLine:
        """Read it from /proc/self/stat, fields 48 and 49 (proc(5))."""
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return cls(int(fields[45]), int(fields[46]))

    def overwrite(self, name: bytes) -> None:
        """Leave ``name`` in their place; /proc/PID/cmdline would show paths of the host."""
        size = self.end - self.start
        if size > len(name):
            ctypes.memset(self.start, 0, size)
            ctypes.memmove(self.start, name, len(name))


def run(
    spec: StartSpec, groups: Mapping[str, str], sock: socket.socket, command_line: CommandLine
) -> NoReturn:
    """Be PID 1. The first message says that the ids are mapped, and brings the clones.

    ``groups`` are for :func:`.rootfs.plan`. What needs no ids is done before, while the monitor
    prepares that message. The clones of binds come in a second one: their ids depend on who the
    command is in this root.
    """
    stage = "namespaces"
    try:
        command_line.overwrite(b"init")
        reset_signals()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.setsid()
        if spec.own_network:
            netlink.loopback_up()
        if spec.allow_hosts:
            _send_listener(sock)
        socket.sethostname(spec.hostname)
        rootfs.detach_from_host()
        operations, last = rootfs.plan(spec, groups), rootfs.attachments(spec)
        stage = "ids"
        _, clones = wire.receive(sock)
        idmaps.become_root(single_id=spec.ids.is_single)
        _forbid_user_namespaces()
        stage = "root file system"
        late: list[int] = []
        if spec.is_rootless:
            clones = [source.open(None) for source in rootfs.sources(operations)]
            late = [source.open(None) for source in rootfs.sources(last)]
        refuse_imports()
        kept = rootfs.build(operations, clones)
        if kept:
            wire.send(sock, {"kept": list(kept)}, list(kept.values()))
        if rootfs.sources(last) and not spec.is_rootless:
            stage = "user"
            who = resolve_user(spec.process.user, spec.ids)
            wire.send(sock, {"uid": who.uid, "gid": who.gid})
            _, late = wire.receive(sock)
        stage = "mounts"
        rootfs.complete(last, late)
        stage = "hardening"
        _harden(sock)
        wire.send(sock, {"ready": True})
        sock.recv(1)
    except identity.UnknownUser as error:
        wire.send(sock, {"stage": stage, "errno": errno.EINVAL, "text": str(error)})
    except OSError as error:
        report(sock, stage, error)
    finally:
        os._exit(0)


def _send_listener(sock: socket.socket) -> None:
    """Open the way out: what listens here, in this network, is accepted from on the host's."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", PROXY_PORT))
        listener.listen()
        wire.send(sock, {"listener": True}, [listener.fileno()])


def _forbid_user_namespaces() -> None:
    """Nobody inside makes a user namespace of their own. The limit is per user namespace."""
    fd = os.open("/proc/sys/user/max_user_namespaces", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    except PermissionError as error:
        raise OSError(errno.EPERM, "cannot forbid nested user namespaces") from error
    finally:
        os.close(fd)


def _harden(sock: socket.socket) -> None:
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    # After the last change of credentials, which clears it.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    keep = sock.fileno()
    linux.close_range(keep + 1, linux.CLOSE_RANGE_MAX)
    if keep:
        linux.close_range(0, keep - 1)
    capabilities.drop_bounding(0)
    capabilities.set_all(0, 0, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
