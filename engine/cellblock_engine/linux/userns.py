"""User namespaces: ranges of subordinate ids, and the maps that put them to use.

Each user namespace gets a range of its own where one can be had, because the kernel counts
processes, inotify instances and keys by host uid. user_namespaces(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from . import syscalls
from .idmaps import write_map

RANGE_SIZE = 65536
_FIRST_BASE = 524288
_LAST_BASE = 2**31 - RANGE_SIZE
_SLOTS = (_LAST_BASE - _FIRST_BASE) // RANGE_SIZE + 1
# struct flock with an open file description lock: one byte a slot, freed by the kernel when the
# description is closed, however its holder ends. fcntl(2).
_FLOCK = "hhqqi4x"


def allotted_slots() -> frozenset[int]:
    """Return the slots that /etc/subuid, /etc/subgid or a real account already use."""
    taken: set[int] = set()
    for path, fields in (("/etc/subuid", (1, 2)), ("/etc/subgid", (1, 2))):
        for words in _words(path):
            first, count = (words[field] for field in fields)
            if first.isdigit() and count.isdigit() and int(count):
                taken.update(_slots(int(first), int(first) + int(count) - 1))
    for path in ("/etc/passwd", "/etc/group"):
        for words in _words(path):
            if words[2].isdigit():
                taken.update(_slots(int(words[2]), int(words[2])))
    return frozenset(taken)


def acquire_range(lock_file: str, taken: frozenset[int]) -> tuple[int, int]:
    """Return ``(base, fd)`` of a free range of RANGE_SIZE ids; closing ``fd`` gives it back.

    The search starts at a place derived from the pid, so that many at once seldom meet. Raises
    OSError (EAGAIN) when every range is in use.
    """
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    start = os.getpid() * 7919
    try:
        for step in range(_SLOTS):
            slot = (start + step) % _SLOTS
            if slot not in taken and _lock(fd, slot):
                return _FIRST_BASE + slot * RANGE_SIZE, fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    raise OSError(errno.EAGAIN, "every range of subordinate ids is in use", lock_file)


def map_range(pid: int, base: int) -> None:
    """Map ids 0 to 65535 of the process's user namespace to ``base`` and up."""
    line = f"0 {base} {RANGE_SIZE}"
    write_map(pid, "uid_map", line)
    write_map(pid, "gid_map", line)


def bridge(uid: tuple[int, int], gid: tuple[int, int]) -> int:
    """Return a descriptor of a new user namespace that maps one user and one group.

    Each pair is an id on disk and the id of the host that a mount with this namespace as its
    idmap shows in its place. No process stays in it. Only for single-threaded processes.
    """
    waits, ends = os.pipe()
    try:
        pid, pidfd = syscalls.clone3(syscalls.CLONE_NEWUSER)
        if pid == 0:
            os.close(ends)
            os.read(waits, 1)
            os._exit(0)
        os.close(pidfd)
        try:
            write_map(pid, "uid_map", f"{uid[0]} {uid[1]} 1")
            write_map(pid, "gid_map", f"{gid[0]} {gid[1]} 1")
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(ends)
            ends = -1
            os.waitpid(pid, 0)
    finally:
        os.close(waits)
        if ends >= 0:
            os.close(ends)


def _lock(fd: int, slot: int) -> bool:
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, slot, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _slots(first: int, last: int) -> range:
    low = max(first, _FIRST_BASE) - _FIRST_BASE
    high = min(last, _LAST_BASE + RANGE_SIZE - 1) - _FIRST_BASE
    return range(low // RANGE_SIZE, high // RANGE_SIZE + 1) if high >= low else range(0)


def _words(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip().split(":") for line in file]
    except FileNotFoundError:
        return []
    return [words for words in lines if len(words) >= 3]
