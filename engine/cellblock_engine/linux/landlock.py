"""Landlock, for two purposes: nothing outside the present root is executed, or nothing changed.

A process on its way into a container still runs an interpreter of the host, which the container
can name by ``/proc/self/exe`` when it has that process execute a script (``#!/proc/self/exe``).
No mount hides it, and where root inside is the owner of that file outside, it could change it
(the kin of CVE-2019-5736). And a process that reads what hostile code writes to it needs no right
to change any file at all.

It refuses to be a sandbox's rule language: two calls, no arguments.

Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import os

from . import syscalls

_REFER_ABI = 2  # before it, a ruleset forbids every rename and link across directories
_ACCESS = syscalls.LANDLOCK_ACCESS_FS_EXECUTE | syscalls.LANDLOCK_ACCESS_FS_REFER
_CHANGES = (
    syscalls.LANDLOCK_ACCESS_FS_EXECUTE
    | syscalls.LANDLOCK_ACCESS_FS_WRITE_FILE
    | syscalls.LANDLOCK_ACCESS_FS_REMOVE_AND_MAKE
    | syscalls.LANDLOCK_ACCESS_FS_REFER
)


def available() -> bool:
    """Return whether this kernel, as it was booted, can do :func:`confine_execution`."""
    try:
        return syscalls.landlock_abi() >= _REFER_ABI
    except OSError:
        return False


def confine_execution() -> None:
    """Let this thread and its descendants execute only files at or below the present root.

    For good; no_new_privs must be set already. Files without a path, such as those of
    memfd_create(2), stay executable. Of other processes, only descendants of this one can be
    traced from now on, or looked into through /proc. Needs no file but ``/``. Raises OSError
    (EPERM without no_new_privs, E2BIG below 16 such domains).
    """
    ruleset = syscalls.landlock_create_ruleset(_ACCESS)
    try:
        root = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.landlock_add_rule(ruleset, _ACCESS, root)
        finally:
            os.close(root)
        syscalls.landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)


def refuse_changes() -> None:
    """Let this thread and its descendants execute, open for writing, make and remove no file.

    For good; no_new_privs must be set already. What is open stays so. Raises OSError as
    :func:`confine_execution` does.
    """
    ruleset = syscalls.landlock_create_ruleset(_CHANGES)
    try:
        syscalls.landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)
