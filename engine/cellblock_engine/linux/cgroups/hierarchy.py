"""Which control groups a process is in, and what can be made below them.

Reads ``/proc/self/mountinfo`` and ``/proc/PID/cgroup`` and changes nothing. In a hybrid layout
(v1 controllers beside a v2 tree without any) the v2 tree is systemd's bookkeeping and is left
alone. cgroups(7), proc_pid_mountinfo(5), proc_pid_cgroup(5).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from . import unified
from .group import Controllers, Unmanaged, denied
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

    New groups go below those that ``pid`` is in, but on cgroup v2 as :mod:`.unified` says. Raises
    OSError (ENOENT, ESRCH when it is gone).
    """
    there, callers = read_mounts(), read_membership(pid)
    if has_v1(there):
        return controllers(there, callers)
    return controllers(there, callers, read_membership(os.getpid()), unified.manager())


def granted(pid: int, undelegated: str) -> Controllers:
    """Return what :func:`discover` does, once systemd has been asked, where it is to be.

    ``undelegated`` says why it gave nothing. Raises OSError.
    """
    found = discover(pid)
    return Unmanaged(undelegated) if isinstance(found, unified.Delegable) else found


def settle(pid: int) -> Controllers:
    """Make room for groups beside a process that is alone in the scope that systemd gave it.

    Returns what can be limited in these. Raises OSError, LimitNotEnforceable.
    """
    there = read_mounts()
    mount = next(mount for mount in there if mount.is_v2)
    group = _below(read_membership(pid).get("", ""), mount.root) or ""
    unified.settle(pid, mount.mount_point + group)
    return controllers(there, read_membership(pid))


def controllers(
    mounts: tuple[CgroupMount, ...],
    membership: dict[str, str],
    own: dict[str, str] | None = None,
    systemd: unified.Manager | None = None,
) -> Controllers:
    """Return the controllers for a process of this membership on these mounts.

    ``own`` is that of the process that makes the groups, if it is another.
    """
    if not has_v1(mounts):
        mount = next((mount for mount in mounts if mount.is_v2), None)
        if mount is None:
            return Unmanaged("no cgroup controllers are mounted on this machine")
        return _unified(mount, membership, own or membership, systemd)
    directories: dict[str, str] = {}
    missing: dict[str, str] = {}
    for controller in sorted(CONTROLLERS):
        try:
            directories[controller] = _place(controller, mounts, membership)
        except _MissingError as reason:
            missing[controller] = str(reason)
    return V1Controllers(directories, missing)


def has_v1(mounts: tuple[CgroupMount, ...]) -> bool:
    """Tell whether any controller is one of v1: then limits are."""
    return any(mount.controllers & CONTROLLERS for mount in mounts)


def _unified(
    mount: CgroupMount,
    membership: dict[str, str],
    own: dict[str, str],
    systemd: unified.Manager | None,
) -> Controllers:
    if mount.read_only:
        return Unmanaged(f"{mount.mount_point} is mounted read-only")
    places = []
    for path in (membership.get("", ""), own.get("", "")):
        below = _below(path, mount.root)
        if below is None:
            return Unmanaged(f"the group {path} is not visible below {mount.mount_point}")
        places.append(mount.mount_point + below)
    return unified.controllers(mount.mount_point, places[0], places[1], systemd)


def read_mounts() -> tuple[CgroupMount, ...]:
    """Return the hierarchies that this process sees. Raises OSError."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        return parse_mounts(stream.read())


def read_membership(pid: int) -> dict[str, str]:
    """Return the groups that a process is in (:func:`parse_membership`). Raises OSError."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as stream:
        return parse_membership(stream.read())


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
        raise _MissingError(denied(directory))
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
