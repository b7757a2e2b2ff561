"""The last steps of a command on its way into a container: join, harden, execute.

Runs in a child of the monitor. After it has joined the container's mount namespace every file
is the image's, so nothing is imported, decoded by a codec not yet loaded, or looked up by name
services; an audit hook enforces the first. The order is the point of this module: each comment
says what depends on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import sys
from typing import Any, NamedTuple, NoReturn

from ..linux import capabilities, idmaps, landlock, mounts, notifications, seccomp
from ..linux import syscalls as linux
from ..linux.cgroups import Entrance
from . import identity, wire
from .spec import ProcessSpec, StandIns

_DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RLIMITS = (
    (resource.RLIMIT_CORE, 1),  # 0 would still pipe the dump to a core handler of the host
    (resource.RLIMIT_NOFILE, 1 << 20),
    (resource.RLIMIT_MEMLOCK, 8 << 20),
    (resource.RLIMIT_MSGQUEUE, 819200),
)
_ULIMITS = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_")
}


class Namespaces(NamedTuple):
    """Descriptors of a container's namespaces; ``net`` is None where it has the host's."""

    user: int
    pid: int
    mnt: int
    ipc: int
    uts: int
    net: int | None


class Assignment(NamedTuple):
    """All a command needs, prepared while the host's files were still in reach.

    ``occupied``: the root is ready, and code of the image may be inside. ``fake_ids_program`` is
    empty where the kernel's own answers to changes of ids and owners are to be given.
    """

    process: ProcessSpec
    namespaces: Namespaces
    is_rootless: bool
    ids: idmaps.Inside
    occupied: bool
    entrance: Entrance
    stdio: tuple[int, int, int]
    channels: tuple[int, ...]
    seccomp_program: bytes
    fake_ids_program: bytes


def enter_by_helper(assignment: Assignment, sock: socket.socket) -> NoReturn:
    """Join namespaces from outside the pid namespace; leave the command to a child born inside.

    Needed where the monitor may not join the pid namespace itself: an ordinary user's may only
    from inside the user namespace. And where code of the image is inside already: /proc shows it
    the mounts and the network of every process there, so a command must have none of the host's
    when it appears. The child is born a sibling (CLONE_PARENT), so its exit status goes to the
    monitor. Its pid and pidfd are sent on ``sock``.
    """
    try:
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        linux.setns(assignment.namespaces.user, linux.CLONE_NEWUSER)
        linux.setns(assignment.namespaces.pid, linux.CLONE_NEWPID)
        if assignment.occupied:
            _join(assignment.namespaces)
            _join_mounts(assignment.namespaces)
        pid, pidfd = linux.clone3(linux.CLONE_PARENT, cgroup=assignment.entrance.directory)
        if pid == 0:
            become(assignment, sock)
        wire.send(sock, {"pid": pid}, [pidfd])
    except OSError as error:
        report(sock, "enter", error)
    finally:
        os._exit(0)


def become(assignment: Assignment, sock: socket.socket) -> NoReturn:
    """Be the command, once a byte on ``sock`` says that the root is ready.

    A failure is told on ``sock``; when the command is executed, that is closed without a word.
    """
    stage = "cgroup"
    try:
        # Before any namespace is joined: from here on nobody inside may trace this process,
        # nor, through /proc, reach the descriptors it holds.
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        # The kernel checks who opened a v1 tasks file, not who writes to it.
        for fd in assignment.entrance.tasks:
            os.write(fd, b"0")
        stage = "namespaces"
        if not assignment.occupied:
            if not assignment.is_rootless:
                linux.setns(assignment.namespaces.user, linux.CLONE_NEWUSER)
            _join(assignment.namespaces)
        linux.unshare(linux.CLONE_NEWCGROUP)
        os.setsid()
        stage = "hardening"
        # The ids until now are the monitor's, and belong to no file there.
        idmaps.become_root(single_id=assignment.ids.is_single)
        process = assignment.process
        kept = capabilities.mask(frozenset(process.capabilities))
        _restrict(kept)
        if not sock.recv(1):
            os._exit(125)  # the monitor gave up
        stage = "namespaces"
        if not assignment.occupied:
            _join_mounts(assignment.namespaces)
        stage = "user"
        who = resolve_user(process.user, assignment.ids)
        stage = "working directory"
        workdir = _open_workdir(os.fsencode(process.cwd))
        argv, env = _words(process, who.home)
        stage = "standard streams"
        sock, workdir = _arrange_descriptors(assignment, sock, workdir)
        stage = "user"
        _take_ids(who, assignment.ids)
        stage = "working directory"
        _change_directory(workdir)
        stage = "ulimits"
        _limit(process, who.uid)
        stage = "hardening"
        _hold_capabilities(0 if who.uid else kept)
        # Root inside owns the host's files here, among them the interpreter that is still ours.
        if assignment.is_rootless and landlock.available():
            landlock.confine_execution()
        # The filters come last: they allow none of the above.
        _filter_calls(assignment, sock)
        stage = "execute"
        _execute(argv, env, process.stand_ins.memory_bytes)
    except identity.UnknownUser as error:
        wire.send(sock, {"stage": stage, "errno": errno.EINVAL, "text": str(error)})
    except OSError as error:
        report(sock, stage, error)
    finally:
        os._exit(125)


def _filter_calls(assignment: Assignment, sock: socket.socket) -> None:
    """Put itself under the filters; who listens to that of owners is the monitor's business."""
    if assignment.fake_ids_program:
        try:
            listener = notifications.install(assignment.fake_ids_program)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # A filter around the engine has a listener: the kernel alone answers then.
        else:
            wire.send(sock, {"listener": True}, [listener])
            os.close(listener)
    seccomp.install(assignment.seccomp_program)


def report(sock: socket.socket, stage: str, error: OSError) -> None:
    """Tell the monitor what failed: the stage, the errno and, where there is one, the file."""
    name = error.filename
    place = os.fsdecode(name) if isinstance(name, (str, bytes)) and name else ""
    text = f"{place}: {error.strerror}" if place else str(error.strerror)
    wire.send(sock, {"stage": stage, "errno": error.errno or 0, "text": text})


def _join(namespaces: Namespaces) -> None:
    """Join all but the mount namespace, whose root may not be ready."""
    linux.setns(namespaces.ipc, linux.CLONE_NEWIPC)
    linux.setns(namespaces.uts, linux.CLONE_NEWUTS)
    if namespaces.net is not None:
        linux.setns(namespaces.net, linux.CLONE_NEWNET)


def _join_mounts(namespaces: Namespaces) -> None:
    """Join the mount namespace; every file is the image's now, and none is imported."""
    refuse_imports()
    linux.setns(namespaces.mnt, linux.CLONE_NEWNS)


def refuse_imports() -> None:
    """Import nothing from here on: every file is, or is about to be, the image's."""

    def refuse(event: str, _: tuple[Any, ...]) -> None:
        if event == "import":
            raise OSError(errno.EPERM, "an import from the container's own files was refused")

    sys.addaudithook(refuse)


def resolve_user(user: str, ids: idmaps.Inside) -> identity.Identity:
    """Return who ``user`` is in the present root. Raises UnknownUser, OSError."""
    who = identity.resolve(os.fsencode(user))
    if ids.is_single and (who.uid or who.gid):
        raise identity.UnknownUser("only user 0 is mapped here (no subordinate ids)")
    for kind, number, count in (("users", who.uid, ids.users), ("groups", who.gid, ids.groups)):
        if number >= count:
            raise identity.UnknownUser(f"{kind} end at {count - 1} in this container")
    return who._replace(groups=[gid for gid in who.groups if gid < ids.groups])


def _restrict(kept: int) -> None:
    """Give up what the root's files have no say in, while init is still building it."""
    os.umask(0o022)
    reset_signals()
    for kind, wanted in _RLIMITS:
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
    linux.keyctl_join_session_keyring()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    capabilities.drop_bounding(kept)


def _limit(process: ProcessSpec, uid: int) -> None:
    """Set the limits that were asked for. Raises PermissionError where the machine's are lower."""
    for name, soft, hard in process.ulimits:
        kind = _ULIMITS[name]
        most = resource.getrlimit(kind)[1]
        # 1 keeps a dump from the host's handler, 0 would not.
        wanted = (1, 1) if name == "core" else (soft, hard)
        if most != resource.RLIM_INFINITY and not 0 <= wanted[1] <= most:
            raise PermissionError(errno.EPERM, f"{name} is at most {most} on this machine")
        resource.setrlimit(kind, wanted)
    _hold(process.stand_ins, uid)


def _hold(stand_ins: StandIns, uid: int) -> None:
    """Hold it to what stands in for limits of a control group. setrlimit(2), NPROC.

    Processes are counted by user namespace and user there since Linux 5.14, by the host's user
    before that. Nobody inside can raise the limit: that takes CAP_SYS_RESOURCE on the host.
    """
    if stand_ins.pids is not None:
        _lower(resource.RLIMIT_NPROC, stand_ins.pids + (uid == 0))  # init is one of user 0
    if stand_ins.processors:
        os.sched_setaffinity(0, stand_ins.processors)


def _lower(kind: int, most: int) -> None:
    """Set a limit to ``most``, or leave it where it is lower."""
    present = [each for each in resource.getrlimit(kind) if each != resource.RLIM_INFINITY]
    lowest = min([most, *present])
    resource.setrlimit(kind, (lowest, lowest))


def _take_ids(who: identity.Identity, ids: idmaps.Inside) -> None:
    if not ids.is_single:
        os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)


def _open_workdir(path: bytes) -> int:
    """Open the working directory, made if missing, refusing magic links (CVE-2024-21626)."""
    root = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mounts.ensure_directory(root, path)
    finally:
        os.close(root)


def _hold_capabilities(held: int) -> None:
    capabilities.set_all(held, held, 0)


def _change_directory(fd: int) -> None:
    os.fchdir(fd)
    os.close(fd)


def _words(process: ProcessSpec, home: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    env: dict[bytes, bytes] = {}
    for entry in process.env:
        key, _, value = os.fsencode(entry).partition(b"=")
        env[key] = value
    env.setdefault(b"PATH", _DEFAULT_PATH)
    env.setdefault(b"HOME", home)
    return [os.fsencode(word) for word in process.argv], env


def _arrange_descriptors(
    assignment: Assignment, sock: socket.socket, workdir: int
) -> tuple[socket.socket, int]:
    """Put the streams at 0, 1, 2, channels after them, our own two behind; close all others.

    Closed, not close-on-exec: a script's ``#!/proc/self/fd/N/...`` is resolved before exec
    closes anything. Returns our own two at their new places.
    """
    passed = [*assignment.stdio, *assignment.channels]
    everything = [*passed, sock.fileno(), workdir]
    # Beyond the places they will take.
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(everything)) for fd in everything]
    for number, fd in enumerate(aside):
        os.dup2(fd, number, inheritable=number < len(passed))
    linux.close_range(len(aside), linux.CLOSE_RANGE_MAX)
    sock.detach()
    moved = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=len(passed))
    return moved, len(passed) + 1


def reset_signals() -> None:
    """Give every signal its default action and block none (Python ignores SIGPIPE, SIGXFSZ)."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _execute(argv: list[bytes], env: dict[bytes, bytes], most_bytes: int | None) -> NoReturn:
    """Execute it; ``most_bytes`` is how much it can map. Raises OSError."""
    command = argv[0]
    if most_bytes is not None:
        # Not before: what is mapped now is this interpreter's, and may be more.
        _lower(resource.RLIMIT_AS, most_bytes)
    if b"/" in command:
        os.execve(command, argv, env)  # noqa: S606 - that is what this is for
    refused: OSError | None = None
    for folder in env[b"PATH"].split(b":"):
        try:
            os.execve((folder or b".") + b"/" + command, argv, env)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            refused = error
    raise refused or FileNotFoundError(errno.ENOENT, "is not on PATH", command)
