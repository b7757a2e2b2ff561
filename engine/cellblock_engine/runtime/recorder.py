"""The process that answers changes of owners in a container of one id.

It is a child of the container's monitor, which starts it when the first of them waits, and gives it
the listener of each command's filter (:mod:`..linux.fake_ids`). It has joined the container's user
and mount namespaces, where it can do what root of the container can, and not the others: nobody
inside sees it. As what it is told is hostile, it is not to be traced, imports and executes nothing,
and may make few system calls. If it dies, changes of owners fail with ENOSYS; nothing else does.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from typing import NamedTuple, NoReturn

from ..linux import capabilities, idmaps, notifications, seccomp
from ..linux import syscalls as linux
from ..linux.descriptors import close_all_but
from .ownership import Ownership, overlays
from .workload import refuse_imports

_CAPABILITIES = frozenset({"CHOWN", "DAC_OVERRIDE", "FOWNER", "SYS_PTRACE"})
_SYSTEM_CALLS = frozenset(
    """
    brk clock_gettime close exit_group fchownat fcntl fstat fstatfs futex getpid getxattr ioctl
    madvise mmap mprotect mremap munmap newfstatat openat openat2 poll ppoll pread64 read recvmsg
    removexattr restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn setxattr
    """.split()
)


class Post(NamedTuple):
    """What a recorder is given: where listeners come from, and the namespaces it joins."""

    line: socket.socket
    user_namespace: int
    mount_namespace: int
    monitor: int


def run(post: Post) -> NoReturn:
    """Be the recorder, in a process just forked, until it is killed. Raises OSError."""
    machine = os.uname().machine
    foreign = _confine(post, seccomp.compile_narrow(machine, _SYSTEM_CALLS))
    _serve(post.line, Ownership(machine, foreign))


def _confine(post: Post, program: bytes) -> frozenset[bytes]:
    """Join the container; give up what is not needed there. Return the overlays of the host."""
    gc.freeze()  # what was the monitor's stays as it is: its descriptors here are not its own
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    close_all_but(post.line.fileno(), post.user_namespace, post.mount_namespace, proc)
    foreign = overlays(proc).devices
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.setns(post.user_namespace, linux.CLONE_NEWUSER)
    idmaps.become_root(single_id=True)
    refuse_imports()
    linux.setns(post.mount_namespace, linux.CLONE_NEWNS)
    os.fchdir(proc)
    for fd in (proc, post.user_namespace, post.mount_namespace):
        os.close(fd)
    capabilities.drop_bounding(0)
    held = capabilities.mask(_CAPABILITIES)
    capabilities.set_all(held, held, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    # After the last change of credentials, which clears it; and the monitor may be gone already.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != post.monitor:
        os._exit(1)
    seccomp.install(program)
    return foreign


def _serve(line: socket.socket, ownership: Ownership) -> NoReturn:
    poll = select.poll()
    poll.register(line, select.POLLIN)
    while True:
        for fd, events in poll.poll():
            if fd == line.fileno():
                poll.register(_next(line), select.POLLIN)
            elif events & select.POLLIN:
                notification = notifications.receive(fd)
                if notification is not None:
                    code = ownership.change(fd, notification)
                    notifications.answer(fd, notification, code)
            else:  # nobody is under this filter any more
                poll.unregister(fd)
                os.close(fd)


def _next(line: socket.socket) -> int:
    _, fds, _, _ = socket.recv_fds(line, 1, 1)
    if not fds:
        os._exit(0)  # the monitor is gone
    return fds[0]
