"""The plan of a start in words: what would be in force, and what not, here and for this caller.

Reads the same plan that a start executes, so that it cannot say anything else. It makes nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from .limits import DEVICE_RATES
from .linux import landlock
from .linux.cgroups import Controllers, Limits
from .runtime import rootfs
from .runtime.sandbox import DEFAULT_PIDS, group_name
from .runtime.spec import StartSpec
from .units import format_bytes


@dataclass(frozen=True)
class Explanation:
    """Lines by what they are about, in the order of a start."""

    sections: Mapping[str, tuple[str, ...]]

    def lines(self) -> tuple[str, ...]:
        """Return all of it as lines for people."""
        found: list[str] = []
        for title, lines in self.sections.items():
            found += [f"{title}:", *(f"  {line}" for line in lines or ("none",))]
        return tuple(found)


def explain(
    spec: StartSpec, image: str, controllers: Controllers, replaced: Mapping[str, str]
) -> Explanation:
    """Return the plan of a start for whom these ``controllers`` are.

    ``replaced`` says what stands in for limits that they cannot enforce.
    """
    missing = controllers.missing()
    groups = controllers.shown(group_name(spec), spec.limits)
    mounts = (*rootfs.plan(spec, groups), *rootfs.attachments(spec))
    return Explanation(
        {
            "command": (
                shlex.join(spec.process.argv),
                f"image {image}, user {spec.process.user or '0'}, in {spec.process.cwd}",
            ),
            "namespaces": _namespaces(spec),
            "mounts": tuple(operation.describe() for operation in mounts),
            "limits": (
                *_limits(spec, missing),
                *(f"{name}, by best effort: {what}" for name, what in replaced.items()),
            ),
            "capabilities of user 0": (" ".join(spec.process.capabilities) or "none",),
            "filters": _filters(spec),
            "not in force here": _absent(spec, missing),
        }
    )


def _namespaces(spec: StartSpec) -> tuple[str, ...]:
    if spec.ids.is_single:
        ids = f"user: 0 is user {os.geteuid()} outside, there is no other id"
    elif spec.is_rootless:
        ids = (
            f"user: 0 is user {os.geteuid()} outside, 1 to {spec.ids.users - 1} are subordinate "
            "ids of that user"
        )
    else:
        ids = "user: ids 0 to 65535 are a range outside that nobody else uses"
    network = "net: only a loopback" if spec.own_network else "net: the host's, not its own"
    if spec.allow_hosts:
        network += f", and on it a proxy to {' '.join(spec.allow_hosts)}"
    return (ids, "mnt, pid, ipc, cgroup: its own", f"uts: its own, {spec.hostname}", network)


def _limits(spec: StartSpec, missing: Mapping[str, str]) -> tuple[str, ...]:
    limits, lines = spec.limits, []
    if limits.memory_bytes is not None:
        lines.append(f"memory: {format_bytes(limits.memory_bytes)}")
        if limits.swaps and limits.memory_swap_bytes is not None:
            swap = limits.memory_swap_bytes
            lines.append(f"memory and swap: {format_bytes(swap) if swap > 0 else 'no limit'}")
        else:
            lines.append("swap: none")
    if limits.cpus is not None:
        lines.append(f"cpus: {limits.cpus:g}")
    if limits.cpuset_cpus is not None:
        lines.append(f"processors: {limits.cpuset_cpus}")
    if limits.pids is not None:
        lines.append(f"processes and threads: {limits.pids}")
    elif "pids" not in missing:
        lines.append(f"processes and threads: {DEFAULT_PIDS} (by default)")
    lines += _shares(limits)
    if spec.storage_bytes is not None:
        lines.append(f"written to the image's tree: {format_bytes(spec.storage_bytes)}")
    if spec.timeout_s is not None:
        lines.append(f"time: {spec.timeout_s:g} s")
    lines += [f"ulimit {name}: {soft}:{hard}" for name, soft, hard in spec.process.ulimits]
    return tuple(lines)


def _shares(limits: Limits) -> list[str]:
    """Return what it gets where others want the same, and how fast it may use disks."""
    lines = []
    if limits.cpu_shares is not None:
        lines.append(f"share of the processors: {limits.cpu_shares} (1024 is usual)")
    if limits.memory_reservation_bytes is not None:
        lines.append(f"memory left to it: {format_bytes(limits.memory_reservation_bytes)}")
    if limits.blkio_weight is not None:
        lines.append(f"share of disks: {limits.blkio_weight}")
    for name in DEVICE_RATES:
        rates = getattr(limits, name) or {}
        lines += [f"{name.replace('_', '-')}: {disk} {rate}" for disk, rate in rates.items()]
    return lines


def _filters(spec: StartSpec) -> tuple[str, ...]:
    lines = [
        "no_new_privs: setuid programs and file capabilities gain nothing",
        "seccomp: an allow-list; no mounts, namespaces, io_uring, bpf, perf, keys",
    ]
    if spec.ids.is_single:
        lines.append("seccomp: to other ids and owners is answered as done; owners are recorded")
    if spec.is_rootless and landlock.available():
        lines.append("landlock: the engine's interpreter cannot be executed")
    return tuple(lines)


def _absent(spec: StartSpec, missing: Mapping[str, str]) -> tuple[str, ...]:
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    lines = [f"a limit on {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    if spec.is_rootless:
        if spec.ids.is_single:
            lines.append("users other than 0: no subordinate ids (see doctor); or run as root")
        else:
            lines.append("ids of its own: all containers of this user have the same; run as root")
            if spec.binds:
                lines.append("bound folders of the caller for users other than 0: they are 0's")
        if not landlock.available():
            lines.append("landlock: this kernel has none (5.13 or newer, and switched on)")
    elif spec.binds:
        lines.append("ids of other users on bound folders: only the caller's own are mapped")
    if not spec.own_network:
        lines.append("a network of its own: --network host was asked for")
    if spec.told(spec.limits).memory_bytes is None:
        lines.append("a limit of its own on memory: none was asked for (--memory)")
    if spec.storage_bytes is None and not spec.read_only:
        lines.append("a limit on what is written: none was asked for (--storage-limit)")
    if not spec.read_only:
        lines.append("a read-only root: what is written goes to the container's own layer")
    return tuple(lines)
