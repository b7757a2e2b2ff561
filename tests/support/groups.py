"""Processes in control groups."""

from __future__ import annotations

import os
from collections.abc import Callable

from cellblock_engine.linux import syscalls
from cellblock_engine.linux.cgroups import Group


def run_in(group: Group, function: Callable[[], object]) -> int:
    """Return the id of a child that does ``function`` in the group, and is to be waited for."""
    entrance = group.entrance()
    pid, pidfd = syscalls.clone3(0, cgroup=entrance.directory)
    if pid == 0:
        try:
            for fd in entrance.tasks:
                os.write(fd, b"0")
            function()
        finally:
            os._exit(0)
    for fd in (pidfd, *entrance.fds):
        os.close(fd)
    return pid
