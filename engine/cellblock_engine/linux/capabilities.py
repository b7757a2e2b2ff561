"""Capabilities: their numbers, the default profile, and the calls that reduce a process to it.

Sets are plain bit masks, as the kernel's are. Nothing here can gain anything. capabilities(7).
"""

from __future__ import annotations

import errno

from . import syscalls

NAMES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
"""In the order of their numbers; include/uapi/linux/capability.h, complete up to Linux 6.18."""

DEFAULT = frozenset(
    {
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETUID",
    }
)
"""What a workload keeps: enough for package managers, su and ports below 1024."""

_HIGHEST_CONCEIVABLE = 63  # the sets are 64 bits wide


def number(name: str) -> int:
    """Return the number of ``CHOWN`` or ``cap_chown``. Raises ValueError for no capability."""
    plain = name.upper().removeprefix("CAP_")
    if plain not in NAMES:
        raise ValueError(f"{name!r} is no capability; their names are those of capabilities(7)")
    return NAMES.index(plain)


def name(number: int) -> str:
    """Return the name of a capability; ``CAP_41`` and so on for those newer than the table."""
    return NAMES[number] if number < len(NAMES) else f"CAP_{number}"


def mask(names: frozenset[str]) -> int:
    """Return the set of ``names`` as a bit mask. Raises ValueError for no capability."""
    return sum(1 << bit for bit in {number(each) for each in names})


def names(mask: int) -> frozenset[str]:
    """Return the names of the bits in ``mask``."""
    return frozenset(name(bit) for bit in range(mask.bit_length()) if mask >> bit & 1)


def drop_bounding(keep: int) -> None:
    """Drop all from the bounding set but ``keep``; needs CAP_SETPCAP while it drops.

    Goes by the kernel's own count, so that capabilities newer than this table go too.
    Raises OSError (EPERM without CAP_SETPCAP).
    """
    for candidate in range(_HIGHEST_CONCEIVABLE + 1):
        try:
            if not keep >> candidate & 1 and syscalls.prctl(syscalls.PR_CAPBSET_READ, candidate):
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, candidate)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return


def set_all(effective: int, permitted: int, inheritable: int) -> None:
    """Replace the three sets of the calling thread, and clear its ambient set.

    Raises OSError (EPERM where that would gain something).
    """
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(effective, permitted, inheritable)
