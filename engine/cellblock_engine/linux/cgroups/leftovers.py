"""Groups removed: at their end, and those whose owner was killed before it could."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable

from .. import syscalls

_STEP_S = 0.001
_STEP_MAX_S = 0.02
_CGROUP_MAGICS = (0x27E0EB, 0x63677270)  # of v1 and v2: linux/magic.h
_LET_GO = (("freezer.state", b"THAWED"), ("cgroup.freeze", b"0"))


def remove_directory(path: str, deadline: float) -> bool:
    """Remove one group; return False when it is still in use at the deadline. Raises OSError."""
    step_s = _STEP_S
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() > deadline:
                return False
        else:
            return True
        time.sleep(step_s)
        step_s = min(step_s * 2, _STEP_MAX_S)


def remove_stale(paths: Iterable[str], prefix: str) -> tuple[str, ...]:
    """Remove recorded directories of groups whose owner is gone; return those that are in use.

    What is left in them is killed where that can be said of a group (cgroup v2). Only groups whose
    own name starts with ``prefix`` are touched, whatever was recorded, and rmdir removes nothing
    but empty ones. Those already gone are not returned. Raises OSError (EPERM, EACCES).
    """
    return tuple(path for path in paths if not _is_removed(path, prefix))


def _is_removed(path: str, prefix: str) -> bool:
    if not path.startswith("/") or not path.rpartition("/")[2].startswith(prefix) or "\0" in path:
        return True  # a damaged record: nothing is known of a group
    try:
        group = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return True
        raise
    try:
        # Elsewhere, files of these names could be anything, or lead to it.
        if syscalls.file_system_type(group) not in _CGROUP_MAGICS:
            return True
        # What stood still when its owner was killed cannot die before it goes on.
        for name, word in _LET_GO:
            _write(group, name, word)
        if remove_directory(path, time.monotonic()):
            return True
        _write(group, "cgroup.kill", b"1")
        return False
    finally:
        os.close(group)


def _write(group: int, name: str, word: bytes) -> None:
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=group)
    except FileNotFoundError:
        return  # another controller's, another version's, or gone
    try:
        os.write(fd, word)
    except OSError as error:
        if error.errno != errno.ENODEV:  # removed meanwhile
            raise
    finally:
        os.close(fd)
