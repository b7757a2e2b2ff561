"""Which ids a user's containers have outside, and user namespaces that have these.

An ordinary user's containers all have the same: with subordinate ids, user 0 inside is the user,
and the others are of the ranges that /etc/subuid and /etc/subgid give; without, there is no other.
Root's containers have ranges of their own instead (:mod:`.userns`). user_namespaces(7), subuid(5),
newuidmap(1).
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from . import syscalls

_PATH = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin"
_ALL_IDS = 2**32 - 1
_WANTED = 65536
_CAP_SYS_ADMIN = 21


class Extent(NamedTuple):
    """``size`` ids from ``inside`` on are those from ``outside`` on, as in uid_map."""

    inside: int
    outside: int
    size: int


class Inside(NamedTuple):
    """How many users and groups a user namespace has, from 0 on."""

    users: int
    groups: int

    @property
    def is_single(self) -> bool:
        """Whether there is but one user and one group."""
        return self == (1, 1)


class IdMaps(NamedTuple):
    """The users and groups of a user namespace."""

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]

    @property
    def is_single(self) -> bool:
        """Whether there is but one user and one group."""
        return len(self.uids) == len(self.gids) == self.uids[0].size == self.gids[0].size == 1

    @property
    def inside(self) -> Inside:
        """How many there are, as a process in it counts them from 0."""
        users, groups = (sum(extent.size for extent in extents) for extents in self)
        return Inside(users, groups)

    @classmethod
    def of(cls, plain: Sequence[Sequence[Sequence[int]]]) -> IdMaps:
        """Return the maps that JSON has made lists of. Raises ValueError, TypeError."""
        uids, gids = (tuple(Extent(*extent) for extent in extents) for extents in plain)
        numbers = [number for extent in (*uids, *gids) for number in extent]
        if not (uids and gids) or not all(_is_number(number) for number in numbers):
            raise ValueError("these are no ids")
        return cls(uids, gids)


def single() -> IdMaps:
    """Return maps of the caller's own user and group to 0."""
    return IdMaps((Extent(0, os.geteuid(), 1),), (Extent(0, os.getegid(), 1),))


def subordinate() -> IdMaps | None:
    """Return maps that have the caller's subordinate ids too; None if they cannot be had."""
    if is_barred() or program("newuidmap") is None or program("newgidmap") is None:
        return None
    uids, gids = granted("/etc/subuid"), granted("/etc/subgid")
    if not uids or not gids:
        return None
    return IdMaps(_extents(os.geteuid(), uids), _extents(os.getegid(), gids))


def is_barred() -> bool:
    """Tell whether newuidmap has no privilege if this process executes it (no_new_privs)."""
    return bool(syscalls.prctl(syscalls.PR_GET_NO_NEW_PRIVS))


def are_granted(maps: IdMaps) -> bool:
    """Tell whether the caller may have these still."""
    now = subordinate()
    if maps.is_single or now is None:
        return maps == single()
    return all(
        mine[0] == theirs[0] and set(mine[1:]) <= set(theirs[1:])
        for mine, theirs in ((maps.uids, now.uids), (maps.gids, now.gids))
    )


def may_map_ranges() -> bool:
    """Tell whether this process can give containers ranges of ids, as root of a machine does.

    Root of a container has all ids often, but not the right to map files to them (CAP_SYS_ADMIN in
    the machine's own user namespace; mount_setattr(2)).
    """
    return all(
        any(count == _ALL_IDS for _, _, count in _own_map(name)) for name in ("uid_map", "gid_map")
    ) and bool(_effective_capabilities() >> _CAP_SYS_ADMIN & 1)


def own_ids() -> int:
    """Return how many users this process's user namespace has; 2**32 - 1 in the machine's own."""
    return sum(count for _, _, count in _own_map("uid_map"))


def outside(user: int) -> int:
    """Return which user of the surrounding user namespace this one is; itself, if it is none."""
    for first, there, count in _own_map("uid_map"):
        if first <= user < first + count:
            return there + user - first
    return user


@lru_cache(maxsize=1)
def is_single_here() -> bool:
    """Tell whether this process's user namespace has a single user: files cannot be others'."""
    return own_ids() == 1


def give(pid: int, maps: IdMaps) -> None:
    """Give these ids to the new user namespace that ``pid`` is in. Raises OSError.

    Only for single-threaded processes.
    """
    if maps.is_single:
        write_map(pid, "setgroups", "deny")
        for name, extents in (("uid_map", maps.uids), ("gid_map", maps.gids)):
            write_map(pid, name, " ".join(map(str, extents[0])))
        return
    running = [
        (name, _start(name, pid, extents))
        for name, extents in (("newuidmap", maps.uids), ("newgidmap", maps.gids))
    ]
    failed = [name for name, child in running if os.waitpid(child, 0)[1]]
    if failed:
        raise OSError(errno.EPERM, "refused to map subordinate ids: see /etc/subuid", failed[0])


def enter(maps: IdMaps) -> None:
    """Become root of a new user namespace with these ids, for good. Raises OSError.

    Only for single-threaded processes. Files of all these ids can be read, written and given to
    one another; what the caller could do outside it can no more.
    """
    me = os.getpid()
    made_read, made_write = os.pipe()
    helper = os.fork()
    if helper == 0:
        status = 1
        try:
            os.close(made_write)
            if os.read(made_read, 1):
                give(me, maps)
                status = 0
        except OSError as error:
            status = error.errno or 1
        finally:
            os._exit(status)
    os.close(made_read)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(made_write, b"!")
    finally:
        os.close(made_write)
        code = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if code:
        raise OSError(code, f"cannot map the ids of a container: {os.strerror(code)}")
    become_root(single_id=maps.is_single)
    is_single_here.cache_clear()


def become_root(*, single_id: bool) -> None:
    """Take the ids of root in the caller's user namespace, which has them."""
    if not single_id:
        os.setgroups([])  # which a namespace of one id denies
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _ALL_IDS


def _extents(own: int, granted: list[tuple[int, int]]) -> tuple[Extent, ...]:
    extents, inside = [Extent(0, own, 1)], 1
    for first, count in granted:
        taken = min(count, _WANTED - inside)
        if taken > 0:
            extents.append(Extent(inside, first, taken))
            inside += taken
    return tuple(extents)


def granted(path: str) -> list[tuple[int, int]]:
    """Return first id and number of each range that subuid(5) or subgid(5) gives to the caller."""
    user = os.geteuid()
    names = {str(user)}
    try:
        names.add(pwd.getpwuid(user).pw_name)
    except KeyError:
        return []  # newuidmap(1) asks for the name as well
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return []
    return [
        (int(words[1]), int(words[2]))
        for words in lines
        if len(words) == 3 and words[0] in names and words[1].isdigit() and words[2].isdigit()
    ]


def _start(name: str, pid: int, extents: tuple[Extent, ...]) -> int:
    path = program(name)
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "is not installed", name)
    words = [str(number) for extent in extents for number in extent]
    return os.posix_spawn(
        path,
        [name, str(pid), *words],
        {},
        file_actions=[(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)],
    )


def program(name: str) -> str | None:
    """Return the path of a program that maps ids, None where it is not installed."""
    for folder in _PATH.split(":"):
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


def _effective_capabilities() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return int(file.read().partition("CapEff:")[2].split(None, 1)[0], 16)


def _own_map(name: str) -> list[Extent]:
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        return [Extent(*map(int, line.split())) for line in file]


def write_map(pid: int, name: str, text: str) -> None:
    """Write ``uid_map``, ``gid_map`` or ``setgroups`` of a process, in one go. Raises OSError."""
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
