"""The process that lets an off-line container's connections out, to the hosts that were allowed.

It is a child of the container's monitor, in the host's network, and accepts on a listener that
init has opened in the container's. As it reads what hostile code writes, it keeps nothing of the
monitor's but two descriptors: no capability, no user of the host, no right to execute, write or
make a file. Each connection is a thread: a name that resolves slowly holds up no other, and all
of them end with the one process. It never forks.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import NamedTuple, NoReturn

from ..linux import capabilities, landlock, seccomp
from ..linux import syscalls as linux
from ..linux.descriptors import close_all_but
from .allowlist import AllowedHost, parse_allowed_host
from .tunnel import serve

MOST_CONNECTIONS = 64
"""How many are served at once; more wait in the listener's queue."""

MOST_LINES = 20
"""How many denials are told; all of them are answered."""

_PACE_S = 0.005  # between two connections: a flood of them costs the host some percent of a core
_AGAIN_S = 0.1
_MOST_FDS = 512  # two for each connection, and a resolver's few; select(2) ends at 1024


class Post(NamedTuple):
    """What a broker is given, and who it becomes.

    Denials are written to ``words``. ``identity`` is the id of a user and a group that own
    nothing; None where there is none to be had.
    """

    listener: int
    words: int
    hosts: tuple[str, ...]
    identity: int | None
    seccomp_program: bytes
    monitor: int


def run(post: Post) -> NoReturn:
    """Be the broker, in a process just forked, until it is killed. Raises InvalidInput, OSError."""
    hosts = tuple(map(parse_allowed_host, post.hosts))
    _confine(post)
    _serve(post, hosts)


def _confine(post: Post) -> None:
    """Give up what a proxy has no use for. All is imported: files may be out of reach after it."""
    gc.freeze()  # what was the monitor's stays as it is: its descriptors here are not its own
    close_all_but(post.listener, post.words)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FDS if hard == resource.RLIM_INFINITY else min(_MOST_FDS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if post.identity is not None:
        nobody = post.identity
        capabilities.drop_bounding(0)
        os.setgroups([])
        os.setresgid(nobody, nobody, nobody)
        os.setresuid(nobody, nobody, nobody)
    capabilities.set_all(0, 0, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    # After the last change of credentials, which clears it; and the monitor may be gone already.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != post.monitor:
        os._exit(1)
    if landlock.available():
        landlock.refuse_changes()
    seccomp.install(post.seccomp_program)


def _serve(post: Post, hosts: tuple[AllowedHost, ...]) -> NoReturn:
    listener = socket.socket(fileno=post.listener)
    room = threading.Semaphore(MOST_CONNECTIONS)
    denials = _Denials(post.words)

    def carry(client: socket.socket) -> None:
        try:
            with client:
                line = serve(client, hosts)
            if line is not None:
                denials.tell(line)
        finally:
            room.release()

    while True:
        room.acquire()
        try:
            client, _ = listener.accept()
            threading.Thread(target=carry, args=(client,), daemon=True).start()
            time.sleep(_PACE_S)
        except (OSError, RuntimeError):  # out of descriptors, or of threads
            room.release()
            time.sleep(_AGAIN_S)


class _Denials:
    """What was denied, for the container's log; so many lines, and a word about the others."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._count = 0

    def tell(self, line: str) -> None:
        with self._lock, suppress(OSError):
            self._count += 1
            if self._count <= MOST_LINES:
                os.write(self._fd, f"cellblock: {line}\n".encode())
            if self._count == MOST_LINES:
                os.write(self._fd, b"cellblock: further denials are not shown\n")
