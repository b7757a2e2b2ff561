"""Counts what runs must not leave behind: before and after must be equal.

Only what belongs to this process and to one store is counted: other programs on the machine come
and go. Run such tests serially.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_PREFIX = "cellblock-"
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
SETTLE_S = 10.0


@dataclass(frozen=True)
class Snapshot:
    """Counts at one moment; two of them compare equal when nothing leaked."""

    own_fds: int
    engine_fds: int
    processes: int
    mounts: int
    abandoned_cgroups: int
    links: int
    namespaces: int
    store_entries: int
    store_bytes: int
    run_entries: int

    def difference(self, other: Snapshot) -> dict[str, tuple[int, int]]:
        """Return what differs from ``other``, as name -> (here, there)."""
        pairs = {
            field.name: (getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        }
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def snapshot(home: Path, run: Path) -> Snapshot:
    """Count now, for the store ``home`` with the runtime directory ``run``."""
    pids = frozenset(engine_pids(home, run))
    entries, size = _tree(home)
    return Snapshot(
        own_fds=len(list(Path("/proc/self/fd").iterdir())),
        engine_fds=sum(_count(Path(f"/proc/{pid}/fd")) for pid in pids),
        processes=len(pids),
        mounts=sum(_mounts(pid, home, run) for pid in {os.getpid(), *pids}),
        abandoned_cgroups=len(empty_cgroups()),
        links=_count(Path("/sys/class/net")),
        namespaces=len({inode for pid in pids for inode in _namespaces(pid)}),
        store_entries=entries,
        store_bytes=size,
        run_entries=_count(run),
    )


def settled(before: Snapshot, home: Path, run: Path, timeout_s: float = SETTLE_S) -> Snapshot:
    """Count until it equals ``before`` or the time is up; return the last count.

    The kernel frees namespaces and cgroups a moment after their last process has been reaped.
    """
    deadline = time.monotonic() + timeout_s
    while (now := snapshot(home, run)) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def quiet(home: Path, run: Path, *, processes: int, timeout_s: float = SETTLE_S) -> Snapshot:
    """Count once nothing changes any more: what ran before may still be on its way out.

    ``processes`` is how many are to be left: 2 are a spawner and its spare monitor, 0 is none.
    """
    deadline = time.monotonic() + timeout_s
    last = snapshot(home, run)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = snapshot(home, run)
        if now == last and now.processes == processes:
            return now
        last = now
    raise AssertionError(f"the store at {home} does not come to rest: {last}")


def engine_pids(home: Path, run: Path) -> Iterator[int]:
    """Yield the store's spawner, its monitors, and everything that descends from them."""
    parents: dict[int, int] = {}
    roots: set[int] = set()
    markers = (os.fsencode(home), os.fsencode(run))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            stat = (entry / "stat").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry.name)] = int(stat[stat.rindex(b")") + 2 :].split()[1])
        if b"spawner" in command and any(marker in command for marker in markers):
            roots.add(int(entry.name))
    for pid in parents:
        ancestor, steps = pid, 0
        while ancestor in parents and steps < 64:
            if ancestor in roots:
                yield pid
                break
            ancestor, steps = parents[ancestor], steps + 1


def orphans() -> set[int]:
    """Return the containers' processes, anybody's, that nobody is left to end.

    They are monitors without a spawner, inits and brokers without a monitor. A monitor outlives a
    killed spawner until its container's end, so look again.
    """
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    commands = {pid: command(pid) for pid in pids}
    masters = {
        b"cellblock-monitor": b"/spawn.py",
        b"cellblock-broker": b"cellblock-monitor",
        b"init\0": b"cellblock-monitor",
    }
    return {
        pid
        for pid, words in commands.items()
        for name, master in masters.items()
        if words.startswith(name)
        and _is_in_namespace(pid, name)
        and master not in commands.get(parent(pid), b"")
    }


def parent(pid: int) -> int:
    """Return the id of a process's parent, 0 when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def command(pid: int) -> bytes:
    """Return a process's command line, nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _is_in_namespace(pid: int, name: bytes) -> bool:
    """Tell a container's init from the machine's own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    ids = status.partition("NSpid:")[2].partition("\n")[0].split()
    return name != b"init\0" or len(ids) > 1


def _mounts(pid: int, home: Path, run: Path) -> int:
    """Count a container's mounts, all of them, or those of this store among the machine's."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        shared = os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return 0
    words = (str(home), str(run)) if shared else ("",)
    return sum(any(word in line for word in words) for line in lines)


def empty_cgroups(name: str = "") -> set[Path]:
    """Return the containers' cgroups, anybody's, in which nothing runs; ``name`` is part of one's.

    Walked, not globbed: groups of others vanish at any moment.
    """
    return {path for path in _cgroups() if name in path.name and _is_abandoned(path)}


def _cgroups() -> Iterator[Path]:
    for directory, names, _ in os.walk(CGROUP_ROOT):
        yield from (Path(directory) / name for name in names if name.startswith(CGROUP_PREFIX))


def _is_abandoned(cgroup: Path) -> bool:
    """Tell a group in which nothing runs: that of a living container, anybody's, is not counted."""
    try:
        return not (cgroup / "cgroup.procs").read_bytes()
    except OSError:
        return False  # it was removed meanwhile


def _namespaces(pid: int) -> Iterator[str]:
    for name in NAMESPACES:
        try:
            yield str(Path(f"/proc/{pid}/ns/{name}").readlink())
        except OSError:
            continue  # it ended meanwhile


def _tree(root: Path) -> tuple[int, int]:
    """Return how many entries ``root`` has, and the bytes of its regular files."""
    entries = size = 0
    for directory, names, files in os.walk(root):
        entries += len(names) + len(files)
        for name in files:
            try:
                size += (Path(directory) / name).lstat().st_size
            except OSError:
                continue  # it was removed meanwhile
    return entries, size


def _count(directory: Path) -> int:
    try:
        return len(list(directory.iterdir()))
    except OSError:
        return 0
