"""Groups removed: at their end, and those whose owner was killed before it could."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable

_STEP_S = 0.001
_STEP_MAX_S = 0.02
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

    What is left in them is killed where that can be said of a group (cgroup v2). Only directories
    whose own name starts with ``prefix`` are touched, and rmdir removes nothing but empty groups.
    Those already gone are not returned. Raises OSError (EPERM, EACCES).
    """
    stay = []
    for path in paths:
        if not path.rpartition("/")[2].startswith(prefix) or not path.startswith("/"):
            raise ValueError(f"{path!r} is not the path of a group named {prefix}...")
        # What stood still when its owner was killed cannot die before it goes on.
        for name, word in _LET_GO:
            _write(f"{path}/{name}", word)
        if not remove_directory(path, time.monotonic()):
            _write(f"{path}/cgroup.kill", b"1")
            stay.append(path)
    return tuple(stay)


def _write(path: str, word: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # another controller's, another version's, or gone
    try:
        os.write(fd, word)
    except OSError as error:
        if error.errno != errno.ENODEV:  # removed meanwhile
            raise
    finally:
        os.close(fd)
