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
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from typing import NamedTuple

from ...errors import LimitNotEnforceable, Unsupported
from ...units import format_bytes
from ..alarm import interrupted
from . import disks, files, processors
from .group import (
    LIMITED_BY,
    SWAP_UNCOUNTED,
    Counters,
    Entrance,
    Limits,
    Usage,
    admit,
    lacking,
    refusal,
)
from .leftovers import remove_directory

CONTROLLERS = frozenset({"blkio", "cpu", "cpuacct", "cpuset", "freezer", "memory", "pids"})
_NEEDED_FILES = {
    "memory-swap": "memory.memsw.limit_in_bytes",
    "memory-reservation": "memory.soft_limit_in_bytes",
    "blkio-weight": disks.V1_BFQ,
    **{name.replace("_", "-"): file for name, file in disks.V1_THROTTLES.items()},
}
_ABSENT = {"memory-swap": SWAP_UNCOUNTED}
_MEMORY = "memory.limit_in_bytes"
_WITH_SWAP = "memory.memsw.limit_in_bytes"
_IN_USE = (errno.EBUSY, errno.ETIMEDOUT)
# Memory with swap is charged first, and since 6.15 the kernel does not count what that refuses
# (mm/memcontrol.c sets track_failcnt for memory alone): the slack lets memory's own limit refuse.
_SWAP_SLACK_BYTES = 2**20
# A lower limit is written only when enough was taken back, and code inside can fill up meanwhile.
_RECLAIM_S = 2.0
_STEP_S = 0.001
_STEP_MAX_S = 0.02


class V1Controllers:
    """The directories of one process's groups, by controller, and why others are missing."""

    version = "cgroup v1"

    def __init__(self, directories: dict[str, str], missing: dict[str, str]) -> None:
        self._directories = directories
        self._missing = missing

    def missing(self, names: Iterable[str] = LIMITED_BY) -> dict[str, str]:
        """As the protocol says."""
        return lacking(names, self._reason)

    def _reason(self, limit: str) -> str | None:
        """Return why a limit cannot be enforced, None if it can."""
        controller = LIMITED_BY[limit]
        if controller in self._missing:
            return self._missing[controller]
        file = _NEEDED_FILES.get(limit)
        if file is not None and not os.path.exists(f"{self._directories.get(controller)}/{file}"):
            return _ABSENT.get(limit, f"this kernel has no {file}")
        if limit == "blkio-weight" and not disks.weighed():
            return disks.UNWEIGHED
        return None

    def refused(self, limits: Limits) -> str | None:
        """As the protocol says."""
        return refusal(limits, self.missing(limits.named()))

    def places(self, name: str) -> tuple[str, ...]:
        """As the protocol says."""
        return self._group(name).paths

    def shown(self, name: str, limits: Limits) -> dict[str, str]:
        """As the protocol says."""
        wanted = set(limits.named().values())
        if "cpu" in wanted:
            wanted.add("cpuacct")
        return {c: f"{parent}/{name}" for c, parent in self._directories.items() if c in wanted}

    def create(self, name: str, limits: Limits) -> V1Group:
        """As the protocol says."""
        admit(name, self.refused(limits))
        # Entering a cpuset group moves memory and takes time: only where one was asked for.
        unused = {"cpuset", "blkio"} - set(limits.named().values())
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

    def _group(self, name: str, unused: Collection[str] = ()) -> V1Group:
        return V1Group(
            {c: f"{parent}/{name}" for c, parent in self._directories.items() if c not in unused}
        )


class _Setting(NamedTuple):
    controller: str
    name: str
    value: int


class V1Group:
    """The directories of one group."""

    def __init__(self, directories: dict[str, str]) -> None:
        self._directories = directories
        # Joined controllers (cpu,cpuacct) share one directory.
        self.paths: tuple[str, ...] = tuple(dict.fromkeys(directories.values()))

    def limit(self, limits: Limits) -> None:
        """Set the limits. Raises LimitNotEnforceable, and OSError when the group is gone."""
        for setting in self._settings(limits):
            self._set(*setting)
        if limits.cpuset_cpus is not None:
            self._limit_processors(limits.cpuset_cpus)
        for name, text in disks.v1_settings(limits):
            self._set("blkio", name, text)

    def update(self, limits: Limits) -> None:
        """As the protocol says."""
        with ExitStack() as undone:
            for controller, name, value in self._settings(limits):
                before = self._value(controller, name)
                if before == str(value):
                    continue
                undone.callback(self._set, controller, name, before)
                with interrupted(_RECLAIM_S):
                    self._set(controller, name, value)
            undone.pop_all()

    def _settings(self, limits: Limits) -> list[_Setting]:
        """Return what is to be written for the limits that are set, in order."""
        settings: list[_Setting] = []
        if limits.memory_bytes is not None:
            settings += self._memory_settings(limits.memory_bytes, limits)
        if limits.cpus is not None:
            quota_us = processors.quota_us(limits.cpus)
            settings.append(_Setting("cpu", "cpu.cfs_period_us", processors.PERIOD_US))
            settings.append(_Setting("cpu", "cpu.cfs_quota_us", quota_us))
        if limits.cpu_shares is not None:
            settings.append(_Setting("cpu", "cpu.shares", limits.cpu_shares))
        if limits.pids is not None:
            settings.append(_Setting("pids", "pids.max", limits.pids))
        if limits.memory_reservation_bytes is not None:
            reserved = limits.memory_reservation_bytes
            settings.append(_Setting("memory", "memory.soft_limit_in_bytes", reserved))
        return settings

    def _memory_settings(self, memory_bytes: int, limits: Limits) -> list[_Setting]:
        settings = [_Setting("memory", _MEMORY, memory_bytes)]
        if limits.swaps:
            settings.append(_Setting("memory", _WITH_SWAP, limits.memory_swap_bytes or -1))
        elif os.path.exists(self._file("memory", _WITH_SWAP)):
            both = memory_bytes + _SWAP_SLACK_BYTES
            settings.append(_Setting("memory", _WITH_SWAP, both))
        if memory_bytes > (self._number("memory", _MEMORY) or 0):
            settings.reverse()  # memory with swap is never less than memory
        # Without swap accounting this is what keeps the limit from being paged away.
        swappiness = self._inherited_swappiness() if limits.swaps else 0
        settings.insert(0, _Setting("memory", "memory.swappiness", swappiness))
        # Inherited: with it, a group at its limit would hang instead of ending.
        if self._entry("memory", "memory.oom_control", "oom_kill_disable"):
            settings.append(_Setting("memory", "memory.oom_control", 0))
        return settings

    def _inherited_swappiness(self) -> int:
        parent = os.path.dirname(self._directories["memory"])
        with open(f"{parent}/memory.swappiness", encoding="ascii") as file:
            return int(file.read())

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

    def entrance(self) -> Entrance:
        """As the protocol says."""
        opened: list[int] = []
        try:
            for path in self.paths:
                opened.append(os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC))
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return Entrance(tasks=tuple(opened))

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

    def usage(self) -> Usage:
        """As the protocol says."""
        memory_bytes = self._number("memory", "memory.usage_in_bytes")
        if memory_bytes is not None:
            idle = self._entry("memory", "memory.stat", "total_inactive_file") or 0
            memory_bytes = max(0, memory_bytes - idle)
        return Usage(
            memory_bytes=memory_bytes,
            memory_peak_bytes=self._number("memory", "memory.max_usage_in_bytes"),
            cpu_usage_ns=self._number("cpuacct", "cpuacct.usage"),
            pids=self._number("pids", "pids.current"),
            pids_refused=self._entry("pids", "pids.events", "max") or 0,
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
            if not remove_directory(path, deadline):
                busy.append(path)
        if busy:
            raise OSError(errno.EBUSY, "processes remain in the group", busy[0])

    def _need_freezer(self) -> None:
        if "freezer" not in self._directories:
            raise Unsupported("cannot freeze: the freezer controller of cgroup v1 is not there")

    def _file(self, controller: str, name: str) -> str:
        return f"{self._directories[controller]}/{name}"

    def _set(self, controller: str, name: str, value: int | str) -> None:
        try:
            files.write(self._file(controller, name), value)
        except LimitNotEnforceable as error:
            cause = error.__cause__
            if controller == "memory" and isinstance(cause, OSError) and cause.errno in _IN_USE:
                raise LimitNotEnforceable(self._memory_in_use(int(value))) from cause
            raise
        except TimeoutError as error:
            if controller != "memory":
                raise
            raise LimitNotEnforceable(self._memory_in_use(int(value))) from error

    def _memory_in_use(self, wanted_bytes: int) -> str:
        used = self._number("memory", "memory.usage_in_bytes") or 0
        return (
            f"cannot limit memory to {format_bytes(wanted_bytes)}: {format_bytes(used)} are in use "
            "and the kernel cannot take them back; end something inside, or give more"
        )

    def _value(self, controller: str, name: str) -> str:
        """Return what to write for the present setting; oom_control names its values."""
        text = self._text(controller, name) or ""
        return text.partition("\n")[0].rpartition(" ")[2]

    def _text(self, controller: str, name: str) -> str | None:
        return files.text(self._directories.get(controller), name)

    def _number(self, controller: str, name: str) -> int | None:
        return files.number(self._directories.get(controller), name)

    def _entry(self, controller: str, name: str, key: str) -> int | None:
        return files.entry(self._directories.get(controller), name, key)
