"""Which limits can be enforced: each is set once on a group that is removed again. cgroups(7)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from ..enforcement import REPLACEABLE
from ..errors import LimitNotEnforceable
from ..linux import cgroups
from ..linux.cgroups.group import LIMITED_BY
from ..linux.cgroups.hierarchy import CgroupMount, has_v1, read_membership, read_mounts
from ..runtime import delegation
from .check import Check
from .surroundings import Surroundings

_TRIALS: Mapping[str, cgroups.Limits] = {
    "memory": cgroups.Limits(memory_bytes=64 << 20),
    "memory-swap": cgroups.Limits(memory_bytes=64 << 20, memory_swap_bytes=128 << 20),
    "cpus": cgroups.Limits(cpus=0.5),
    "cpuset-cpus": cgroups.Limits(cpuset_cpus=str(min(os.sched_getaffinity(0)))),
    "pids": cgroups.Limits(pids=64),
    "cpu-shares": cgroups.Limits(cpu_shares=512),
    "memory-reservation": cgroups.Limits(memory_reservation_bytes=32 << 20),
}
"""Those on disks are not tried, as they need one."""

_FLAGS = {"pids": "pids-limit"}
_OF_ITS_OWN = {
    "BFQ": "as root: echo bfq > /sys/block/DISK/queue/scheduler",
    "swapaccount": "boot the kernel with swapaccount=1",
}
"""How to get what control groups alone do not give, by what the refusal says."""


def all_rungs(around: Surroundings) -> Iterator[Check]:
    """Yield the rung of the groups there are, and one for each limit."""
    version = _version(read_mounts())
    remedy = _remedy(version, around)
    yield _groups(version, read_membership(os.getpid()), remedy)
    for name, problem in _problems().items():
        flag = f"--{_FLAGS.get(name, name)}"
        if problem is None:
            yield Check(f"limit {flag}", "ok", f"is enforced, by cgroup {version}")
        else:
            otherwise = ", but with --limits=best-effort" if name in REPLACEABLE else ""
            lost = f"{flag} is refused{otherwise}"
            own = next((way for sign, way in _OF_ITS_OWN.items() if sign in problem), remedy)
            yield Check(f"limit {flag}", "missing", problem, lost, own)


def _problems() -> dict[str, str | None]:
    """Return what keeps each limit from being enforced, where those of containers would be."""
    found = cgroups.discover(os.getpid())
    try:
        with ExitStack() as given:
            controllers: cgroups.Controllers = found
            if isinstance(found, cgroups.Delegable):
                controllers = given.enter_context(delegation.trial(found))
            missing = controllers.missing()
            return {
                name: missing.get(name) or (_tried(controllers, name) if name in _TRIALS else None)
                for name in LIMITED_BY
            }
    except (delegation.Undelegated, LimitNotEnforceable, OSError) as error:
        return dict.fromkeys(LIMITED_BY, str(error))


def _tried(controllers: cgroups.Controllers, name: str) -> str | None:
    try:
        controllers.create(f"cellblock-doctor-{os.getpid()}-{name}", _TRIALS[name]).remove()
    except (LimitNotEnforceable, OSError) as error:
        return str(error)
    return None


def _version(mounts: tuple[CgroupMount, ...]) -> str:
    if has_v1(mounts):
        return "v1"
    return "v2" if any(mount.is_v2 for mount in mounts) else "none"


def _groups(version: str, own: Mapping[str, str], remedy: str) -> Check:
    name = "control groups"
    if version == "none":
        return Check(name, "missing", "none are mounted", "all limits", remedy)
    if version == "v1":
        kind = "v1, beside a v2 tree without controllers" if "" in own else "v1"
        return Check(name, "ok", f"{kind}, of group {_told(own.get('memory', '/'))}")
    group = own.get("", "/")
    by = ", given to this user by systemd" if _is_delegated(group) else ""
    return Check(name, "ok", f"v2, of group {_told(group)}{by}")


def _is_delegated(group: str) -> bool:
    return os.geteuid() != 0 and f"/user@{os.geteuid()}.service" in group


def _told(group: str) -> str:
    return group if group.isprintable() and len(group) < 100 else f"{group[:80]!a}..."


def _remedy(version: str, around: Surroundings) -> str:
    if version == "v2":
        elsewhere = (
            "log in by systemd (loginctl enable-linger), which gives a user control groups, "
            "or run as root"
            if os.geteuid()
            else "have /sys/fs/cgroup writable, and no processes in the group itself"
        )
        options = "--cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup"
    else:
        elsewhere = "run as root" if os.geteuid() else "mount the cgroup controllers, writable"
        options = "-v /sys/fs/cgroup:/sys/fs/cgroup"
    if Path("/.dockerenv").exists() and os.geteuid() == 0:
        return around.allow("control groups", options, elsewhere=elsewhere)
    return elsewhere
