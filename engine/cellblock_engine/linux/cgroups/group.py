"""What a control group is to the rest of the engine, whichever hierarchy makes it.

The protocols are the seam between the versions: v1 and v2 implement them, and where no group can
be made :class:`Unmanaged` does, which limits nothing and says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from ...errors import LimitNotEnforceable, Unsupported


class Limits(NamedTuple):
    """What a group may use at most; None is no limit of its own."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    memory_swap_bytes: int | None = None
    """Memory and swap together; -1 is as much swap as there is, None is no swap."""
    cpuset_cpus: str | None = None
    """The processors it may run on, as cpuset(7) lists them."""
    cpu_shares: int | None = None
    """Its share of the processors where others want them, as cpu.shares of v1: 1024 is usual."""
    memory_reservation_bytes: int | None = None
    """Memory that is taken from others first."""
    blkio_weight: int | None = None
    device_read_bps: Mapping[str, int] | None = None
    """Bytes a second, by the disk's numbers (``8:0``)."""
    device_write_bps: Mapping[str, int] | None = None
    device_read_iops: Mapping[str, int] | None = None
    """Operations a second."""
    device_write_iops: Mapping[str, int] | None = None

    def named(self) -> dict[str, str]:
        """Return the limits that are set, as limit name -> the controller that enforces it."""
        values = self._asdict()
        if not self.swaps:
            values["memory_swap_bytes"] = None
        return {
            name: controller
            for field, (name, controller) in _LIMITS.items()
            if values[field] is not None
        }

    def over(self, others: Limits) -> Limits:
        """Return these limits, and those of ``others`` where none is set."""
        own = {name: value for name, value in self._asdict().items() if value is not None}
        return others._replace(**own)

    def without(self, names: Collection[str]) -> Limits:
        """Return these limits but for some; without one on memory there is none on no swap."""
        gone = {field for field, (name, _) in _LIMITS.items() if name in names}
        if "memory_bytes" in gone and not self.swaps:
            gone.add("memory_swap_bytes")
        return self._replace(**dict.fromkeys(gone))

    @property
    def swaps(self) -> bool:
        """Tell whether swap may be used; memory and swap equal to memory is none."""
        return self.memory_swap_bytes not in (None, self.memory_bytes)


_LIMITS = {
    "memory_bytes": ("memory", "memory"),
    "cpus": ("cpus", "cpu"),
    "pids": ("pids", "pids"),
    "memory_swap_bytes": ("memory-swap", "memory"),
    "cpuset_cpus": ("cpuset-cpus", "cpuset"),
    "cpu_shares": ("cpu-shares", "cpu"),
    "memory_reservation_bytes": ("memory-reservation", "memory"),
    "blkio_weight": ("blkio-weight", "blkio"),
    "device_read_bps": ("device-read-bps", "blkio"),
    "device_write_bps": ("device-write-bps", "blkio"),
    "device_read_iops": ("device-read-iops", "blkio"),
    "device_write_iops": ("device-write-iops", "blkio"),
}
"""The name of a limit, and what v1 calls the controller that enforces it; v2's io is blkio."""
LIMITED_BY = dict(_LIMITS.values())
SWAP_UNCOUNTED = "this kernel does not count swap (boot it with swapaccount=1)"


class Counters(NamedTuple):
    """The kernel's counters of one group, all from its making; None where it has none."""

    oom_kills: int = 0
    """Processes of the group that the OOM killer ended, whoever's memory had run out."""
    memory_failures: int = 0
    """How often the group's own memory limit was reached; on v2, and nothing could be reclaimed."""
    memory_peak_bytes: int | None = None
    pids_refused: int = 0
    """How often a fork or clone was refused by a pids limit."""
    pids_peak: int | None = None
    cpu_usage_ns: int | None = None

    @property
    def own_oom(self) -> bool:
        """Whether its own limit was the cause of an OOM kill, not that of a group above it."""
        return self.oom_kills > 0 and self.memory_failures > 0

    def since(self, before: Counters) -> Counters:
        """Return these counters with the events up to ``before`` taken off; peaks stay."""
        return self._replace(
            oom_kills=self.oom_kills - before.oom_kills,
            memory_failures=self.memory_failures - before.memory_failures,
            pids_refused=self.pids_refused - before.pids_refused,
        )


class Usage(NamedTuple):
    """What a group uses now; None where the kernel does not count it."""

    memory_bytes: int | None = None
    """Without file pages that nobody used lately: the kernel takes those back when it likes."""
    memory_peak_bytes: int | None = None
    cpu_usage_ns: int | None = None
    pids: int | None = None
    pids_refused: int = 0
    """How often a fork or clone was refused by a pids limit, since it was made."""
    memory_stalled_us: int | None = None
    """How long some of it waited for memory since it was made; so for processors, and for disks."""
    cpu_stalled_us: int | None = None
    io_stalled_us: int | None = None


class Entrance(NamedTuple):
    """Descriptors by which processes enter a group."""

    tasks: tuple[int, ...] = ()
    """Files to which a thread writes ``b"0"`` to be in the group (v1)."""
    directory: int | None = None
    """A directory that a process can be born into by clone3 (v2)."""

    @property
    def fds(self) -> tuple[int, ...]:
        """All of them, to be closed."""
        return self.tasks if self.directory is None else (*self.tasks, self.directory)


class Group(Protocol):
    """One group; whoever made it removes it."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The directories, to be recorded so that a sweep can remove what a crash leaves."""

    def entrance(self) -> Entrance:
        """Return new descriptors by which processes enter; the caller closes them.

        All are opened or none. Raises OSError.
        """

    def counters(self) -> Counters:
        """Return the counters as they are now. Raises OSError once the group is removed."""

    def usage(self) -> Usage:
        """Return what it uses now. Raises OSError once the group is removed."""

    def update(self, limits: Limits) -> None:
        """Change the limits on memory, swap, cpus and pids that are set: all of them or none.

        No process is killed for it. Waits two seconds at most, in the main thread only. Raises
        LimitNotEnforceable for what the kernel refuses and for memory in use that it cannot take
        back, OSError once the group is removed.
        """

    def freeze(self, timeout_s: float) -> None:
        """Stop all its processes; return when they stand. Raises Unsupported, TimeoutError."""

    def thaw(self) -> None:
        """Let its processes go on. Raises Unsupported."""

    def remove(self, timeout_s: float = 2.0) -> None:
        """Remove it, waiting for its last processes to be reaped.

        Idempotent. Raises OSError (EBUSY when processes remain after ``timeout_s``).
        """


class Controllers(Protocol):
    """What can be limited for one process."""

    @property
    def version(self) -> str:
        """Say in words what limits."""

    def missing(self, names: Iterable[str] = LIMITED_BY) -> dict[str, str]:
        """Return those of these limits that cannot be enforced, as limit name -> reason."""

    def refused(self, limits: Limits) -> str | None:
        """Return in one line which of ``limits`` cannot be enforced and why, None if all can."""

    def places(self, name: str) -> tuple[str, ...]:
        """Return the directories that :meth:`create` makes, to be recorded before it does."""

    def shown(self, name: str, limits: Limits) -> dict[str, str]:
        """Return the directories of :meth:`create` that tell of the limits that are set.

        They go by their places below /sys/fs/cgroup, where programs look for them.
        """

    def create(self, name: str, limits: Limits) -> Group:
        """Make a group of this name with its limits set; nothing stays when it fails.

        Raises LimitNotEnforceable, FileExistsError, OSError.
        """


def lacking(names: Iterable[str], reason_of: Callable[[str], str | None]) -> dict[str, str]:
    """Return limit name -> reason, for those that have a reason not to be enforced."""
    reasons = {name: reason_of(name) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def refusal(limits: Limits, missing: dict[str, str]) -> str | None:
    """Return one line for those of ``limits`` that are ``missing``, None if there are none."""
    reasons: dict[str, list[str]] = {}
    for name in limits.named():
        if name in missing:
            reasons.setdefault(missing[name], []).append(name)
    if not reasons:
        return None
    parts = [f"{' and '.join(names)}: {reason}" for reason, names in reasons.items()]
    return f"cannot enforce a limit on {'; on '.join(parts)}; leave the limit out to run without"


def admit(name: str, refused: str | None) -> None:
    """Raise ValueError for what is no name of a group, LimitNotEnforceable for what is refused."""
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a group")
    if refused is not None:
        raise LimitNotEnforceable(refused)


def denied(directory: str) -> str:
    """Say that this user may not make groups there, and who may."""
    user = os.geteuid()
    remedy = " (run as root)" if user else ": it is another's"
    return f"user {user} may not make groups below {directory}{remedy}"


class Unmanaged:
    """No group can be made: every limit is refused by name, and the group is none."""

    version = "nothing"

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def missing(self, names: Iterable[str] = LIMITED_BY) -> dict[str, str]:
        """As the protocol says."""
        return dict.fromkeys(names, self._reason)

    def refused(self, limits: Limits) -> str | None:
        """As the protocol says."""
        return refusal(limits, self.missing(limits.named()))

    def places(self, name: str) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's
        """As the protocol says."""
        return ()

    def shown(self, name: str, limits: Limits) -> dict[str, str]:  # noqa: ARG002 - the protocol's
        """As the protocol says."""
        return {}

    def create(self, name: str, limits: Limits) -> Group:  # noqa: ARG002 - the protocol's
        """As the protocol says."""
        if reason := self.refused(limits):
            raise LimitNotEnforceable(reason)
        return NoGroup(self._reason)


class NoGroup:
    """A group that is none."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    @property
    def paths(self) -> tuple[str, ...]:
        """As the protocol says."""
        return ()

    def entrance(self) -> Entrance:
        """As the protocol says."""
        return Entrance()

    def counters(self) -> Counters:
        """As the protocol says."""
        return Counters()

    def usage(self) -> Usage:
        """As the protocol says."""
        return Usage()

    def update(self, limits: Limits) -> None:
        """As the protocol says."""
        if limits.named():
            raise LimitNotEnforceable(f"cannot limit: {self._reason}")

    def freeze(self, timeout_s: float) -> None:  # noqa: ARG002 - the protocol's
        """As the protocol says."""
        raise Unsupported(f"cannot freeze: {self._reason}")

    def thaw(self) -> None:
        """As the protocol says."""
        raise Unsupported(f"cannot thaw: {self._reason}")

    def remove(self, timeout_s: float = 2.0) -> None:
        """As the protocol says."""
