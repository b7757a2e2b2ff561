"""Where groups can be made on cgroup v2: below one without processes, or one that systemd gives.

cgroup v2 limits nothing beside processes of the same group ("no internal processes"), and systemd
takes controllers away from groups that it does not know. So where systemd runs the machine, it is
asked for a scope (:mod:`...runtime.delegation`) in which the spawner and its monitors sit in one
leaf and containers' groups beside that. Elsewhere groups go below the nearest at or above the
caller's that may have some. Nothing is changed here but by :func:`settle`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ...errors import LimitNotEnforceable
from . import files
from .group import LIMITED_BY, Controllers, Group, Limits, NoGroup, Unmanaged, denied, refusal
from .v2 import CONTROLLERS, SHOWN_AT, V2Controllers, available, is_root, missing_limits

SCOPE_PREFIX = "cellblock-"
_SCOPE = ".scope"
_LEAF = "spawner"
_BOOTED = "/run/systemd/system"  # sd_booted(3)
_SYSTEM_BUS = "/run/dbus/system_bus_socket"


class Manager(NamedTuple):
    """The systemd that gives groups to this user."""

    bus: str
    """The socket of the bus on which it is asked."""
    bus_found: bool
    user: int


class Delegable:
    """Groups can be had of systemd: what is made in a scope of its own, once there is one."""

    version = "cgroup v2, given by systemd"

    def __init__(
        self, manager: Manager, within: str, slice_name: str | None, reasons: Mapping[str, str]
    ) -> None:
        self.bus, self.slice_name = manager.bus, slice_name
        self._within = within
        self._reasons = dict(reasons)

    def missing(self, names: Iterable[str] = LIMITED_BY) -> dict[str, str]:
        """As the protocol says."""
        return missing_limits(names, self._reasons)

    def refused(self, limits: Limits) -> str | None:
        """As the protocol says."""
        return refusal(limits, self.missing(limits.named()))

    def places(self, name: str) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's
        """As the protocol says."""
        return ()

    def shown(self, name: str, limits: Limits) -> dict[str, str]:
        """As the protocol says; it is not told yet where they will be."""
        return {SHOWN_AT: f"{self._within}/.../{name}"} if limits.named() else {}

    def create(self, name: str, limits: Limits) -> Group:  # noqa: ARG002 - the protocol's
        """As the protocol says."""
        if limits.named():
            raise LimitNotEnforceable("systemd has not been asked for a scope yet")
        return NoGroup("systemd has not been asked for a scope yet")


def controllers(top: str, caller: str, own: str, manager: Manager | None) -> Controllers:
    """Return what can be limited for processes started on behalf of one in the group ``caller``.

    ``top`` is where the hierarchy is mounted, ``caller`` and ``own``, this process's group, are
    directories below it.
    """
    scope, leaf = os.path.split(own)
    if leaf == _LEAF and is_scope(scope):
        return _below(scope)
    if not available(top):
        return Unmanaged(f"cgroup v2 has no controllers at {top}")
    if manager is not None:
        return _delegable(top, caller, manager)
    path = caller
    while not _may_have_groups(path):
        if path == top:
            return Unmanaged(
                f"the groups from {caller} up to {top} have processes in them, and cgroup v2 sets "
                "no limits beside those: move them into a group below, or run under systemd"
            )
        path = os.path.dirname(path)
    return _below(path)


def is_scope(directory: str) -> bool:
    """Tell a group that systemd gave to containers."""
    name = os.path.basename(directory)
    return name.startswith(SCOPE_PREFIX) and name.endswith(_SCOPE)


def settle(pid: int, own: str) -> None:
    """Put a process that is alone in its group ``own``, a scope of systemd's, into a leaf of that.

    Raises OSError, LimitNotEnforceable.
    """
    if not is_scope(own):
        raise OSError(errno.ENOENT, f"systemd gave a scope, and left the process in {own}")
    leaf = f"{own}/{_LEAF}"
    os.mkdir(leaf, 0o755)
    files.write(f"{leaf}/cgroup.procs", pid)


def manager() -> Manager | None:
    """Return the systemd that gives groups to this process's user; None where none runs."""
    if not os.path.isdir(_BOOTED):
        return None
    user = os.geteuid()
    if user == 0:
        return Manager(_SYSTEM_BUS, _is_socket(_SYSTEM_BUS, 0), 0)
    folders = (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{user}")
    buses = [f"{folder}/bus" for folder in folders if folder]
    found = next((bus for bus in buses if _is_socket(bus, user)), None)
    return Manager(found or buses[-1], found is not None, user)


def _is_socket(path: str, user: int) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == user


def _delegable(top: str, caller: str, systemd: Manager) -> Controllers:
    if not systemd.bus_found:
        if systemd.user == 0:
            return Unmanaged(
                f"systemd, which gives groups on this machine, is not reached: there is no "
                f"{systemd.bus} (install dbus)"
            )
        return Unmanaged(
            f"user {systemd.user} has no systemd of its own, which would give groups: there is no "
            f"{systemd.bus} (log in, or run loginctl enable-linger {systemd.user})"
        )
    within = top if systemd.user == 0 else _of_user(top, caller, systemd.user)
    try:
        there = available(within)
    except OSError as error:
        return Unmanaged(f"the groups of systemd are not to be seen: {within}: {error.strerror}")
    unit = "this kernel" if systemd.user == 0 else f"user@{systemd.user}.service"
    reasons = {
        controller: f"{unit} has no {controller} controller"
        + ("" if systemd.user == 0 else " (see Delegate= in systemd.resource-control(5))")
        for controller in CONTROLLERS - there
    }
    return Delegable(systemd, within, _slice(caller.removeprefix(within)), reasons)


def _of_user(top: str, caller: str, user: int) -> str:
    """Return the group of the user's systemd: the caller's own, else where it is by default."""
    name = f"/user@{user}.service"
    before, found, _ = f"{caller}/".partition(f"{name}/")
    return before + name if found else f"{top}/user.slice/user-{user}.slice{name}"


def _slice(path: str) -> str | None:
    """Return the slice that a group at ``path`` is in; None where that is left to systemd."""
    found = None
    for name in path.strip("/").split("/"):
        if not name.endswith(".slice"):
            break
        found = name
    return found


def _may_have_groups(directory: str) -> bool:
    """Tell whether groups with limits can be made below."""
    try:
        if not available(directory):
            return False
        if is_root(directory):
            return True
        return files.text(directory, "cgroup.type") == "domain" and not files.text(
            directory, "cgroup.procs"
        )
    except OSError:
        return False


def _below(base: str) -> Controllers:
    for path in (base, f"{base}/cgroup.procs"):
        if not os.access(path, os.W_OK, effective_ids=True):
            return Unmanaged(denied(base))
    reasons = {
        controller: f"the group {base} has no {controller} controller"
        for controller in CONTROLLERS - available(base)
    }
    return V2Controllers(base, reasons)
