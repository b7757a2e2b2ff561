"""Which control groups a process is in, and what can be made below them.

Reads ``/proc/self/mountinfo`` and ``/proc/PID/cgroup`` and changes nothing. In a hybrid layout
(v1 controllers beside a v2 tree without any) the v2 tree is systemd's bookkeeping and is left
alone. cgroups(7), proc_pid_mountinfo(5), proc_pid_cgroup(5).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .group import Controllers, Unmanaged
from .v1 import CONTROLLERS, V1Controllers


class CgroupMount(NamedTuple):
    """One mounted hierarchy; ``controllers`` is empty for v2 and for named v1 hierarchies."""

    mount_point: str
    root: str
    controllers: frozenset[str]
    is_v2: bool
    read_only: bool


def discover(pid: int) -> Controllers:
    """Return what can be limited for processes started on behalf of ``pid``.

    New groups go below those that ``pid`` is in. Raises OSError (ENOENT, ESRCH when it is gone).
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        mounts = parse_mounts(stream.read())
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as stream:
        membership = parse_membership(stream.read())
    return controllers(mounts, membership)


def controllers(mounts: tuple[CgroupMount, ...], membership: dict[str, str]) -> Controllers:
    """Return the controllers for a process of this membership on these mounts."""
    if not any(mount.controllers & CONTROLLERS for mount in mounts):
        if any(mount.is_v2 for mount in mounts):
            return Unmanaged(
                "this machine has cgroup v2 only, and groups are made on cgroup v1 so far"
            )
        return Unmanaged("no cgroup controllers are mounted on this machine")
    directories: dict[str, str] = {}
    missing: dict[str, str] = {}
    for controller in sorted(CONTROLLERS):
        try:
            directories[controller] = _place(controller, mounts, membership)
        except _MissingError as reason:
            missing[controller] = str(reason)
    return V1Controllers(directories, missing)


class _MissingError(Exception):
    """Why no group can be made for a controller."""


def _place(controller: str, mounts: tuple[CgroupMount, ...], membership: dict[str, str]) -> str:
    """Return the directory below which groups can be made. Raises _MissingError."""
    mount = next((m for m in mounts if controller in m.controllers), None)
    path = membership.get(controller)
    if mount is None or path is None:
        raise _MissingError(f"the {controller} controller of cgroup v1 is not mounted")
    below = _below(path, mount.root)
    if below is None:
        raise _MissingError(
            f"the {controller} group {path} is not visible below {mount.mount_point}"
        )
    directory = mount.mount_point + below
    if mount.read_only:
        raise _MissingError(f"{mount.mount_point} is mounted read-only")
    if not os.path.isdir(directory):
        raise _MissingError(f"the {controller} group {path} has been removed")
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        user = os.geteuid()
        raise _MissingError(f"user {user} may not make groups below {directory} (run as root)")
    return directory


def _below(path: str, root: str) -> str | None:
    """Return ``path`` relative to the mounted ``root``, as ``/a/b`` or empty; None if outside."""
    if "/.." in path or path.endswith(" (deleted)"):
        return None
    root = root.rstrip("/")
    if path == root or path.startswith(root + "/"):
        return path[len(root) :].rstrip("/")
    return None


def parse_mounts(mountinfo: str) -> tuple[CgroupMount, ...]:
    """Return the mounted hierarchies in a ``mountinfo``; where two agree, both."""
    found = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        is_v2 = tail[0] == "cgroup2"
        # The super block's options name the controllers: ro, rw and the like are none of them.
        options = frozenset() if is_v2 else CONTROLLERS & set(tail[-1].split(","))
        read_only = "ro" in fields[5].split(",")
        found.append(
            CgroupMount(_unescape(fields[4]), _unescape(fields[3]), options, is_v2, read_only)
        )
    return tuple(found)


def parse_membership(cgroup: str) -> dict[str, str]:
    """Return controller -> group path of a ``/proc/PID/cgroup``; v2 is the empty controller."""
    membership = {}
    for line in cgroup.splitlines():
        _, separator, rest = line.partition(":")
        names, second, path = rest.partition(":")
        if separator and second:
            membership.update(dict.fromkeys(names.split(","), path))
    return membership


def _unescape(field: str) -> str:
    """Undo the octal escapes for space, tab, newline and backslash."""
    for octal, plain in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        field = field.replace("\\" + octal, plain)
    return field
