"""Whether this kernel lets this user do what a container needs, by doing each once.

Each attempt is made in a process of its own, because it changes whoever makes it; this module is
run as a program (``python -I -S``), since a threaded process cannot make a user namespace and must
not be forked. It says what the kernel answered and draws no conclusions.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from . import bpf, idmaps, landlock, mounts, netlink, seccomp, userns
from . import syscalls as linux

_PATIENCE_S = 10
_REAPING_S = 2.0  # a first process that reaps at all does so at once
_LOOK_AGAIN_S = 0.005
_MANY_LAYERS = 200


def attempts(
    directory: bytes, id_ranges: bytes | None, maps: idmaps.IdMaps | None
) -> dict[str, Callable[[], None]]:
    """Return the attempts by name; each raises OSError, or ValueError for an unknown machine.

    ``directory`` is an empty one of the store's; ``id_ranges`` the lock file of the ranges that
    root gives to containers, None for others; ``maps`` the ids that theirs have.
    """
    single, apart = idmaps.single(), linux.CLONE_NEWNS
    own_trees = apart | linux.CLONE_NEWPID | linux.CLONE_NEWNET
    own_names = linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    ids = id_ranges if maps is None else maps
    return {
        "user namespaces": lambda: _with_namespace(0, single, _nothing),
        "ids": lambda: _with_namespace(0, ids or single, _nothing),
        "overlay": lambda: _with_namespace(apart, single, lambda: _overlay(directory)),
        "many layers": lambda: _with_namespace(apart, single, lambda: _many_layers(directory)),
        "memory layers": lambda: _with_namespace(apart, single, _attributes_in_memory),
        "idmapped mounts": lambda: _idmapped(directory, id_ranges),
        "network namespaces": lambda: _with_namespace(
            linux.CLONE_NEWNET, single, netlink.loopback_up
        ),
        "pid namespaces": lambda: _with_namespace(own_names, single, _nothing),
        "proc": lambda: _with_namespace(own_trees, single, _kernel_trees),
        "seccomp": lambda: _in_child(_filtered),
        "seccomp notification": _notified,
        "landlock": lambda: _in_child(_confined),
        "reaping": _orphaned,
    }


def main(arguments: list[str]) -> None:
    """Make every attempt and print a JSON object: name to None, or to what went wrong."""
    directory, id_ranges = (os.fsencode(word) for word in arguments[:2])
    plain = json.loads(arguments[2])
    maps = None if plain is None else idmaps.IdMaps.of(plain)
    answers: dict[str, str | None] = {}
    for name, attempt in attempts(directory, id_ranges or None, maps).items():
        try:
            attempt()
        except OSError as error:
            place = os.fsdecode(error.filename) + ": " if error.filename else ""
            answers[name] = f"{place}{error.strerror or error}"
        except ValueError as error:
            answers[name] = str(error)
        else:
            answers[name] = None
    print(json.dumps(answers))


def _nothing() -> None:
    pass


def _in_child(work: Callable[[], None]) -> None:
    """Do ``work`` in a child and raise what it raised."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _report(work, write_end)
    os.close(write_end)
    _await(pid, read_end)


def _with_namespace(flags: int, ids: bytes | idmaps.IdMaps, work: Callable[[], None]) -> None:
    """Do ``work`` as root of a new user namespace, and of other namespaces of its own.

    Its ``ids`` are these, or a range of which this is the lock file.
    """
    lock = -1
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = linux.clone3(linux.CLONE_NEWUSER | flags)
    if pid == 0:
        os.close(go_write)
        os.read(go_read, 1)  # until the ids are mapped, or the parent is gone
        _report(work, write_end)
    try:
        os.close(write_end)
        os.close(go_read)
        if isinstance(ids, bytes):
            base, lock = userns.acquire_range(os.fsdecode(ids), userns.allotted_slots())
            userns.map_range(pid, base)
        else:
            idmaps.give(pid, ids)
        os.close(go_write)
        go_write = -1
        answer, read_end = read_end, -1
        _await(pid, answer)
    finally:
        for fd in (lock, pidfd, go_write, read_end):
            if fd >= 0:
                os.close(fd)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _report(work: Callable[[], None], write_end: int) -> None:
    """Do it, in a child that ends here, and write what went wrong as ``errno text``."""
    signal.alarm(_PATIENCE_S)
    status = 1
    try:
        work()
        status = 0
    except OSError as error:
        place = os.fsdecode(error.filename) + ": " if error.filename else ""
        os.write(write_end, f"{error.errno or 0} {place}{error.strerror or error}".encode())
    except ValueError as error:
        os.write(write_end, f"0 {error}".encode())
    finally:
        os._exit(status)


def _await(pid: int, read_end: int) -> None:
    words = os.read(read_end, 4096).decode(errors="replace")
    os.close(read_end)
    _, status = os.waitpid(pid, 0)
    if words:
        code, _, text = words.partition(" ")
        raise OSError(int(code), text)
    if status:
        raise OSError(errno.ETIMEDOUT, f"the attempt was ended ({status})")


def _overlay(directory: bytes) -> None:
    linux.mount(None, b"/", None, linux.MS_REC | linux.MS_PRIVATE, None)
    os.chdir(directory)
    for name in ("lower", "upper", "work"):
        os.makedirs(name, exist_ok=True)
    with open("lower/file", "w", encoding="ascii"):
        pass
    tree = mounts.overlay([b"lower"], b"upper", b"work")
    os.fchdir(tree)
    os.unlink("file")  # a whiteout is what copy-on-write needs most
    if os.path.exists("file"):
        raise OSError(errno.EIO, "a removed file is still there")


def _many_layers(directory: bytes) -> None:
    linux.mount(None, b"/", None, linux.MS_REC | linux.MS_PRIVATE, None)
    os.chdir(directory)
    lowers = [b"many/%d" % number for number in range(_MANY_LAYERS)]
    for lower in lowers:
        os.makedirs(lower)
    options = [(b"lowerdir+", lower) for lower in lowers]
    os.close(mounts.new_filesystem(b"overlay", [*options, (b"userxattr", None)]))


def _attributes_in_memory() -> None:
    linux.mount(None, b"/", None, linux.MS_REC | linux.MS_PRIVATE, None)
    place = mounts.new_filesystem(b"tmpfs", [(b"size", b"65536")])
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    os.setxattr(fd, "user.overlay.opaque", b"y")


def _kernel_trees() -> None:
    linux.mount(None, b"/", None, linux.MS_REC | linux.MS_PRIVATE, None)
    # Where the machine's own are mounted with less than that, the kernel gives no more.
    quiet = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
    for kind, attributes in ((b"proc", quiet), (b"sysfs", quiet | linux.MOUNT_ATTR_RDONLY)):
        try:
            os.close(mounts.new_filesystem(kind, (), attributes))
        except OSError as error:
            raise OSError(error.errno, error.strerror, kind) from error


def _idmapped(directory: bytes, id_ranges: bytes | None) -> None:
    if id_ranges is None:
        raise OSError(errno.EPERM, "only root may make them")
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = linux.clone3(linux.CLONE_NEWUSER)
    if pid == 0:
        os.close(ready_write)
        os.read(ready_read, 1)
        os._exit(0)
    try:
        base, lock = userns.acquire_range(os.fsdecode(id_ranges), userns.allotted_slots())
        try:
            userns.map_range(pid, base)
            namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.close(
                    mounts.clone_tree(directory, recursive=False, attributes=0, userns_fd=namespace)
                )
            finally:
                os.close(namespace)
        finally:
            os.close(lock)
    finally:
        os.close(ready_write)
        os.close(ready_read)
        os.close(pidfd)
        os.waitpid(pid, 0)


def _filtered() -> None:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.host_filter())
    try:
        linux.unshare(linux.CLONE_NEWNS)
    except PermissionError:
        return
    raise OSError(errno.EIO, "the filter lets through what it should refuse")


def _notified() -> None:
    linux.seccomp_action_available(bpf.USER_NOTIF)


def _orphaned() -> None:
    """Leave a child to whoever takes orphans, and see whether its end is taken note of."""
    told_read, told_write = os.pipe2(os.O_CLOEXEC)
    end_read, end_write = os.pipe2(os.O_CLOEXEC)
    parent = os.fork()
    if parent == 0:
        orphan = os.fork()
        if orphan == 0:
            os.close(end_write)
            os.read(end_read, 1)  # until it is an orphan, and may end
            os._exit(0)
        os.write(told_write, str(orphan).encode())
        os._exit(0)
    os.waitpid(parent, 0)
    orphan = int(os.read(told_read, 16))
    os.close(end_write)
    deadline = time.monotonic() + _REAPING_S
    adopter = None
    while (stat := _status_words(orphan)) is not None:
        adopter = stat[1]
        if time.monotonic() > deadline:
            raise OSError(errno.ECHILD, f"process {adopter} does not reap orphans")
        time.sleep(_LOOK_AGAIN_S)


def _status_words(pid: int) -> list[str] | None:
    """Return state and parent (proc_pid_stat(5), from field 3), None for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _confined() -> None:
    if not landlock.available():
        raise OSError(errno.EOPNOTSUPP, "this kernel has no Landlock, or was booted without it")
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    landlock.confine_execution()


if __name__ == "__main__":
    main(sys.argv[1:])
