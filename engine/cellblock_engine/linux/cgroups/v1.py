"""Groups on cgroup v1: one directory per hierarchy, all of one name, made and removed together.

Tasks enter by writing ``b"0"`` to ``tasks`` themselves: 0.1 ms each. ``cgroup.procs`` is never
written, it waits for an RCU grace period (5-8 ms).
Documentation/admin-guide/cgroup-v1/{memory,pids,cpuacct,freezer-subsystem}.rst,
Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable

from ...errors import LimitNotEnforceable, Unsupported
from .group import Counters, Limits, refusal

CONTROLLERS = frozenset({"cpu", "cpuacct", "cpuset", "freezer", "memory", "pids"})
_LIMITED_BY = {"memory": "memory", "cpus": "cpu", "pids": "pids", "cpuset-cpus": "cpuset"}
_WITH_SWAP = "memory.memsw.limit_in_bytes"
_CPU_PERIOD_US = 100_000
_CPU_QUOTA_MIN_US = 1_000  # the kernel's min_cfs_quota_period
_NOT_TAKEN = (errno.EINVAL, errno.EBUSY, errno.ERANGE, errno.EPERM, errno.EACCES, errno.EROFS)
# Memory with swap is charged first, and since 6.15 the kernel does not count what that refuses
# (mm/memcontrol.c sets track_failcnt for memory alone): the slack lets memory's own limit refuse.
_SWAP_SLACK_BYTES = 2**20
_STEP_S = 0.001
_STEP_MAX_S = 0.02


class V1Controllers:
    """The directories of one process's groups, by controller, and why others are missing."""

    def __init__(self, directories: dict[str, str], missing: dict[str, str]) -> None:
        self._directories = directories
        self._missing = missing

    def missing(self) -> dict[str, str]:
        """As the protocol says."""
        reasons = {
            limit: self._missing[controller]
            for limit, controller in _LIMITED_BY.items()
            if controller in self._missing
        }
        memory = self._directories.get("memory")
        if memory is None:
            reasons["memory-swap"] = self._missing.get("memory", "there is no memory controller")
        elif not os.path.exists(f"{memory}/{_WITH_SWAP}"):
            reasons["memory-swap"] = "this kernel does not count swap (boot it with swapaccount=1)"
        return reasons

    def refused(self, limits: Limits) -> str | None:
        """As the protocol says."""
        return refusal(limits, self.missing())

    def places(self, name: str) -> tuple[str, ...]:
        """As the protocol says."""
        return self._group(name).paths

    def create(self, name: str, limits: Limits) -> V1Group:
        """As the protocol says."""
        if "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is no name of a group")
        if reason := self.refused(limits):
            raise LimitNotEnforceable(reason)
        # Entering a cpuset group moves memory and takes time: only where one was asked for.
        unused = () if limits.cpuset_cpus is not None else ("cpuset",)
        group = self._group(name, unused)
        made: list[str] = []
        try:
            for path in group.paths:
                os.mkdir(path, 0o755)
                made.append(path)
            group.limit(limits)
        except BaseException:
            for path in made:
                os.rmdir(path)
            raise
        return group

    def _group(self, name: str, unused: tuple[str, ...] = ()) -> V1Group:
        return V1Group(
            {c: f"{parent}/{name}" for c, parent in self._directories.items() if c not in unused}
        )


class V1Group:
    """The directories of one group."""

    def __init__(self, directories: dict[str, str]) -> None:
        self._directories = directories
        # Joined controllers (cpu,cpuacct) share one directory.
        self.paths: tuple[str, ...] = tuple(dict.fromkeys(directories.values()))

    def limit(self, limits: Limits) -> None:
        """Set the limits. Raises LimitNotEnforceable, and OSError when the group is gone."""
        if limits.memory_bytes is not None:
            self._limit_memory(limits.memory_bytes, limits)
        if limits.cpus is not None:
            quota_us = max(_CPU_QUOTA_MIN_US, round(limits.cpus * _CPU_PERIOD_US))
            self._set("cpu", "cpu.cfs_period_us", _CPU_PERIOD_US)
            self._set("cpu", "cpu.cfs_quota_us", quota_us)
        if limits.pids is not None:
            self._set("pids", "pids.max", limits.pids)
        if limits.cpuset_cpus is not None:
            self._limit_processors(limits.cpuset_cpus)

    def _limit_processors(self, cpus: str) -> None:
        # A new group has neither, and takes no task before it has both.
        parent = os.path.dirname(self._directories["cpuset"])
        for name in ("cpuset.cpus", "cpuset.mems"):
            with open(f"{parent}/{name}", encoding="ascii") as file:
                there = file.read().strip()
            wanted = cpus if name == "cpuset.cpus" else there
            try:
                self._set("cpuset", name, wanted)
            except LimitNotEnforceable as error:
                raise LimitNotEnforceable(
                    f"cannot enforce cpuset-cpus {wanted}: the processors to be had are {there}"
                ) from error

    def _limit_memory(self, memory_bytes: int, limits: Limits) -> None:
        self._set("memory", "memory.limit_in_bytes", memory_bytes)
        if limits.swaps:
            self._set("memory", _WITH_SWAP, limits.memory_swap_bytes or -1)
        else:
            # Without swap accounting this is what keeps the limit from being paged away.
            self._set("memory", "memory.swappiness", 0)
            if os.path.exists(self._file("memory", _WITH_SWAP)):
                self._set("memory", _WITH_SWAP, memory_bytes + _SWAP_SLACK_BYTES)
        # Inherited: with it, a group at its limit would hang instead of ending.
        if self._entry("memory", "memory.oom_control", "oom_kill_disable"):
            self._set("memory", "memory.oom_control", 0)

    def tasks_fds(self) -> tuple[int, ...]:
        """As the protocol says."""
        opened: list[int] = []
        try:
            for path in self.paths:
                opened.append(os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC))
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return tuple(opened)

    def counters(self) -> Counters:
        """As the protocol says."""
        return Counters(
            oom_kills=self._entry("memory", "memory.oom_control", "oom_kill") or 0,
            memory_failures=(self._number("memory", "memory.failcnt") or 0)
            + (self._number("memory", "memory.memsw.failcnt") or 0),
            memory_peak_bytes=self._number("memory", "memory.max_usage_in_bytes"),
            pids_refused=self._entry("pids", "pids.events", "max") or 0,
            pids_peak=self._number("pids", "pids.peak"),
            cpu_usage_ns=self._number("cpuacct", "cpuacct.usage"),
        )

    def freeze(self, timeout_s: float) -> None:
        """As the protocol says."""
        self._need_freezer()
        deadline, step_s = time.monotonic() + timeout_s, _STEP_S
        while True:
            # Written again each time: a fork may slip past one that is under way.
            self._set("freezer", "freezer.state", "FROZEN")
            if self._text("freezer", "freezer.state") == "FROZEN":
                return
            if time.monotonic() > deadline:
                self.thaw()
                raise TimeoutError(f"processes did not freeze in {timeout_s:g} s; thawed again")
            time.sleep(step_s)
            step_s = min(step_s * 2, _STEP_MAX_S)

    def thaw(self) -> None:
        """As the protocol says."""
        self._need_freezer()
        self._set("freezer", "freezer.state", "THAWED")

    def remove(self, timeout_s: float = 2.0) -> None:
        """As the protocol says."""
        deadline, busy = time.monotonic() + timeout_s, []
        for path in self.paths:
            if not _remove(path, deadline):
                busy.append(path)
        if busy:
            raise OSError(errno.EBUSY, "processes remain in the group", busy[0])

    def _need_freezer(self) -> None:
        if "freezer" not in self._directories:
            raise Unsupported("cannot freeze: the freezer controller of cgroup v1 is not there")

    def _file(self, controller: str, name: str) -> str:
        return f"{self._directories[controller]}/{name}"

    def _set(self, controller: str, name: str, value: int | str) -> None:
        path = self._file(controller, name)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(value).encode())
        except OSError as error:
            if error.errno not in _NOT_TAKEN:
                raise
            reason = f"the kernel refused {value} for {path}: {error.strerror}"
            hint = (
                "a group above it may allow less" if error.errno == errno.EINVAL else "run as root"
            )
            raise LimitNotEnforceable(f"{reason}; {hint}") from error
        finally:
            os.close(fd)

    def _text(self, controller: str, name: str) -> str | None:
        """Return a file's content, None where the kernel or the machine has no such file."""
        if controller not in self._directories:
            return None
        try:
            fd = os.open(self._file(controller, name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if os.path.isdir(self._directories[controller]):
                return None
            raise
        try:
            return os.read(fd, 4096).decode().strip()
        finally:
            os.close(fd)

    def _number(self, controller: str, name: str) -> int | None:
        text = self._text(controller, name)
        return None if text is None else int(text)

    def _entry(self, controller: str, name: str, key: str) -> int | None:
        """Return the number after ``key`` in a file of ``key number`` lines."""
        for line in (self._text(controller, name) or "").splitlines():
            found, _, value = line.partition(" ")
            if found == key:
                return int(value)
        return None


def remove_stale(paths: Iterable[str], prefix: str) -> tuple[str, ...]:
    """Remove recorded directories of groups whose owner is gone; return those that are in use.

    Only directories whose own name starts with ``prefix`` are touched, and rmdir removes nothing
    but empty groups. Those already gone are not returned. Raises OSError (EPERM, EACCES).
    """
    stay = []
    for path in paths:
        if not path.rpartition("/")[2].startswith(prefix) or not path.startswith("/"):
            raise ValueError(f"{path!r} is not the path of a group named {prefix}...")
        if not _remove(path, time.monotonic()):
            stay.append(path)
    return tuple(stay)


def _remove(path: str, deadline: float) -> bool:
    """Remove one group; return False when it is still in use at the deadline."""
    step_s = _STEP_S
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() > deadline:
                return False
        else:
            return True
        time.sleep(step_s)
        step_s = min(step_s * 2, _STEP_MAX_S)
