"""Groups on cgroup v2: one directory each, below a group that has no processes of its own.

Processes are born into them (CLONE_INTO_CGROUP, Linux 5.7): ``cgroup.procs`` is never written, it
waits for an RCU grace period. Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from ...errors import LimitNotEnforceable
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

CONTROLLERS = frozenset({"cpu", "cpuset", "io", "memory", "pids"})
SHOWN_AT = "."
"""The one hierarchy is not in a directory of its own below /sys/fs/cgroup."""

_CALLED = {"blkio": "io"}  # which controllers have other names than on v1
_SWAP = "memory.swap.max"
_NEEDED_FILES = {
    "memory-swap": _SWAP,
    "blkio-weight": disks.V2_WEIGHT,
    **{name.replace("_", "-"): disks.V2_THROTTLES for name in disks.V1_THROTTLES},
}
_ABSENT = {"memory-swap": SWAP_UNCOUNTED}
_RECLAIM_S = 2.0
_STAND_STILL_S = 1.0


def missing_limits(names: Iterable[str], reasons: Mapping[str, str]) -> dict[str, str]:
    """Return limit name -> reason, for controllers that are missing for these reasons."""
    controllers = {name: _controller(name) for name in names}
    return {name: reasons[each] for name, each in controllers.items() if each in reasons}


class V2Controllers:
    """A group whose children can have limits, and why it lacks some controllers."""

    version = "cgroup v2"

    def __init__(self, base: str, reasons: Mapping[str, str]) -> None:
        self._base = base
        self._reasons = dict(reasons)

    def missing(self, names: Iterable[str] = LIMITED_BY) -> dict[str, str]:
        """As the protocol says."""
        return lacking(names, self._reason)

    def _reason(self, limit: str) -> str | None:
        """Return why a limit cannot be enforced, None if it can."""
        controller, file = _controller(limit), _NEEDED_FILES.get(limit)
        if controller in self._reasons:
            return self._reasons[controller]
        # The machine's own root group has none of these.
        if file and not os.path.exists(f"{self._base}/{file}") and not is_root(self._base):
            return _ABSENT.get(limit, f"this kernel has no {file}")
        if limit == "blkio-weight" and not disks.weighed():
            return disks.UNWEIGHED
        return None

    def refused(self, limits: Limits) -> str | None:
        """As the protocol says."""
        return refusal(limits, self.missing(limits.named()))

    def places(self, name: str) -> tuple[str, ...]:
        """As the protocol says."""
        return (f"{self._base}/{name}",)

    def shown(self, name: str, limits: Limits) -> dict[str, str]:
        """As the protocol says."""
        return {SHOWN_AT: f"{self._base}/{name}"} if limits.named() else {}

    def create(self, name: str, limits: Limits) -> V2Group:
        """As the protocol says."""
        admit(name, self.refused(limits))
        self._enable(frozenset(map(_controller, limits.named())))
        path = f"{self._base}/{name}"
        os.mkdir(path, 0o755)
        group = V2Group(path)
        try:
            group.limit(limits)
        except BaseException:
            os.rmdir(path)
            raise
        return group

    def _enable(self, needed: frozenset[str]) -> None:
        """Give children all controllers that there are, each by itself where one is refused."""
        there = (CONTROLLERS - self._reasons.keys()) - _words(self._base, "cgroup.subtree_control")
        if not there:
            return
        path = f"{self._base}/cgroup.subtree_control"
        with suppress(LimitNotEnforceable):
            files.write(path, " ".join(f"+{controller}" for controller in sorted(there)))
            return
        for controller in sorted(there):
            try:
                files.write(path, f"+{controller}")
            except LimitNotEnforceable:
                if controller in needed:
                    raise


class _Setting(NamedTuple):
    name: str
    value: int | str


class V2Group:
    """The directory of one group."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.paths: tuple[str, ...] = (path,)

    def limit(self, limits: Limits) -> None:
        """Set the limits. Raises LimitNotEnforceable, and OSError when the group is gone."""
        for name, value in self._settings(limits):
            self._set(name, value)
        if limits.cpuset_cpus is not None:
            self._limit_processors(limits.cpuset_cpus)
        for name, text in disks.v2_settings(limits):
            self._set(name, text)

    def update(self, limits: Limits) -> None:
        """As the protocol says."""
        with ExitStack() as undone, self._spared(limits.memory_bytes):
            # Memory is the last: given back, it could already be in use.
            for name, value in self._settings(limits):
                before = self._text(name)
                if before is None or before == str(value):
                    continue
                undone.callback(self._set, name, before)
                self._set(name, value)
            undone.pop_all()

    def _settings(self, limits: Limits) -> list[_Setting]:
        """Return what is to be written for the limits that are set, in order."""
        settings: list[_Setting] = []
        if limits.cpus is not None:
            quota = f"{processors.quota_us(limits.cpus)} {processors.PERIOD_US}"
            settings.append(_Setting("cpu.max", quota))
        if limits.cpu_shares is not None:
            settings.append(_Setting("cpu.weight", processors.weight(limits.cpu_shares)))
        if limits.pids is not None:
            settings.append(_Setting("pids.max", limits.pids))
        if limits.memory_reservation_bytes is not None:
            settings.append(_Setting("memory.low", limits.memory_reservation_bytes))
        if limits.memory_bytes is not None:
            if limits.swaps or self._text(_SWAP) is not None:
                settings.append(_Setting(_SWAP, _swap(limits, limits.memory_bytes)))
            settings.append(_Setting("memory.max", limits.memory_bytes))
        return settings

    def _limit_processors(self, cpus: str) -> None:
        # The kernel takes others as well, and then gives all of the group's above.
        there = files.text(os.path.dirname(self._path), "cpuset.cpus.effective") or ""
        if not processors.listed(cpus) <= processors.listed(there):
            raise LimitNotEnforceable(
                f"cannot enforce cpuset-cpus {cpus}: the processors to be had are {there}"
            )
        self._set("cpuset.cpus", cpus)

    @contextmanager
    def _spared(self, memory_bytes: int | None) -> Iterator[None]:
        """Kill nobody while the limit on memory sinks: the kernel does, where more is in use.

        So nobody runs meanwhile, and first it takes back what it can.
        """
        now = self._number("memory.max")
        sinks = memory_bytes is not None and (now is None or memory_bytes < now)
        if memory_bytes is None or not sinks:
            yield
            return
        stood_still = self._text("cgroup.freeze") == "1"
        if not stood_still:
            try:
                self.freeze(_STAND_STILL_S)
            except TimeoutError:
                raise LimitNotEnforceable(
                    f"cannot limit memory to {format_bytes(memory_bytes)}: something inside does "
                    "not stand still for it; try again"
                ) from None
        try:
            self._take_back(memory_bytes)
            yield
        finally:
            if not stood_still:
                self.thaw()

    def _take_back(self, memory_bytes: int) -> None:
        used = self._number("memory.current") or 0
        before = self._text("memory.high")
        if used > memory_bytes and before is not None:
            try:
                # Unlike memory.reclaim it stops when enough is taken back, not only begun.
                with suppress(TimeoutError), interrupted(_RECLAIM_S):
                    self._set("memory.high", memory_bytes)
            finally:
                self._set("memory.high", before)
            used = self._number("memory.current") or 0
        if used > memory_bytes:
            raise LimitNotEnforceable(
                f"cannot limit memory to {format_bytes(memory_bytes)}: {format_bytes(used)} are "
                "in use and the kernel cannot take them back; end something inside, or give more"
            )

    def entrance(self) -> Entrance:
        """As the protocol says."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return Entrance(directory=os.open(self._path, flags))

    def counters(self) -> Counters:
        """As the protocol says.

        ``oom`` is counted where a limit was hit, ``oom_kill`` where the killed process was: both
        in one group say that it was its own limit.
        """
        self._raise_if_gone()
        return Counters(
            oom_kills=self._entry("memory.events.local", "oom_kill") or 0,
            memory_failures=self._entry("memory.events.local", "oom") or 0,
            memory_peak_bytes=self._number("memory.peak"),
            pids_refused=self._entry("pids.events", "max") or 0,
            pids_peak=self._number("pids.peak"),
            cpu_usage_ns=self._cpu_usage_ns(),
        )

    def usage(self) -> Usage:
        """As the protocol says."""
        self._raise_if_gone()
        memory_bytes = self._number("memory.current")
        if memory_bytes is not None:
            idle = self._entry("memory.stat", "inactive_file") or 0
            memory_bytes = max(0, memory_bytes - idle)
        return Usage(
            memory_bytes=memory_bytes,
            memory_peak_bytes=self._number("memory.peak"),
            cpu_usage_ns=self._cpu_usage_ns(),
            pids=self._number("pids.current"),
            pids_refused=self._entry("pids.events", "max") or 0,
            memory_stalled_us=self._stalled_us("memory.pressure"),
            cpu_stalled_us=self._stalled_us("cpu.pressure"),
            io_stalled_us=self._stalled_us("io.pressure"),
        )

    def freeze(self, timeout_s: float) -> None:
        """As the protocol says."""
        fd = os.open(f"{self._path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._set("cgroup.freeze", 1)
            if not _wait_frozen(fd, time.monotonic() + timeout_s):
                self.thaw()
                raise TimeoutError(f"processes did not freeze in {timeout_s:g} s; thawed again")
        finally:
            os.close(fd)

    def thaw(self) -> None:
        """As the protocol says."""
        self._set("cgroup.freeze", 0)

    def remove(self, timeout_s: float = 2.0) -> None:
        """As the protocol says."""
        if not remove_directory(self._path, time.monotonic() + timeout_s):
            raise OSError(errno.EBUSY, "processes remain in the group", self._path)

    def _raise_if_gone(self) -> None:
        os.stat(self._path)

    def _cpu_usage_ns(self) -> int | None:
        usage_us = self._entry("cpu.stat", "usage_usec")
        return None if usage_us is None else usage_us * 1000

    def _stalled_us(self, name: str) -> int | None:
        """Return how long something stood waiting. Documentation/accounting/psi.rst."""
        try:
            some = (self._text(name) or "").partition("\n")[0]
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # booted without
                raise
            return None
        _, found, total = some.rpartition("total=")
        return int(total) if found else None

    def _set(self, name: str, value: int | str) -> None:
        files.write(f"{self._path}/{name}", value)

    def _text(self, name: str) -> str | None:
        return files.text(self._path, name)

    def _number(self, name: str) -> int | None:
        return files.number(self._path, name)

    def _entry(self, name: str, key: str) -> int | None:
        return files.entry(self._path, name, key)


def is_root(directory: str) -> bool:
    """Tell whether this is the machine's own root group, as no cgroup namespace shows it."""
    return not os.path.exists(f"{directory}/cgroup.type")


def available(directory: str) -> frozenset[str]:
    """Return the controllers that can be enabled for groups below. Raises OSError."""
    return CONTROLLERS & _words(directory, "cgroup.controllers")


def _controller(limit: str) -> str:
    """Return the controller that enforces a limit here."""
    return _CALLED.get(LIMITED_BY[limit], LIMITED_BY[limit])


def _words(directory: str, name: str) -> frozenset[str]:
    return frozenset((files.text(directory, name) or "").split())


def _swap(limits: Limits, memory_bytes: int) -> int | str:
    if not limits.swaps or limits.memory_swap_bytes is None:
        return 0
    return "max" if limits.memory_swap_bytes < 0 else limits.memory_swap_bytes - memory_bytes


def _wait_frozen(events_fd: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(events_fd, select.POLLPRI)  # the kernel's word for a change of such a file
    while b"frozen 1" not in os.pread(events_fd, 4096, 0).splitlines():
        left_s = deadline - time.monotonic()
        if left_s < 0:
            return False
        poll.poll(left_s * 1000)
    return True
