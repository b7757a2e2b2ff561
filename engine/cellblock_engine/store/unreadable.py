"""Files that their own owner may not read, as many a /etc/shadow: root does not notice.

Without privileges all files of a tree are the caller's own, whatever mode they have.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def is_readable(status: os.stat_result) -> bool:
    """Tell whether the caller may read a file of its own with this status."""
    return os.geteuid() == 0 or bool(status.st_mode & stat.S_IRUSR)


def opened(name: bytes, directory: int) -> tuple[int, os.stat_result]:
    """Return a descriptor of a regular file that stands still, and its status as it was.

    It has another mode for that moment, as nothing else would do. Raises OSError.
    """
    path = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        status, itself = os.fstat(path), Path(f"/proc/self/fd/{path}")
        if not stat.S_ISREG(status.st_mode):
            return os.dup(path), status
        mode = stat.S_IMODE(status.st_mode)
        itself.chmod(mode | stat.S_IRUSR)
        try:
            return os.open(itself, os.O_RDONLY | os.O_CLOEXEC), status
        finally:
            itself.chmod(mode)
    finally:
        os.close(path)
