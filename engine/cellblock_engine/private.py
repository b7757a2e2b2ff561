"""Directories that belong to one user, made with their own modes whatever the umask.

What lies in them is trusted because of that: a store's layers hold set-id files, a runtime
directory's sockets are obeyed. Nothing here repairs what somebody else has made.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import StartFailed

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private(*directories: Path) -> None:
    """Make these directories, in this order, for their owner only; existing ones are left.

    What is missing above them may be entered by all and written by its owner. Raises OSError.
    """
    for directory in directories:
        make_directory(directory.parent, 0o755)
        make_directory(directory, 0o700)


def make_directory(directory: Path, mode: int) -> None:
    """Make one directory of this mode, those above it of 0755; existing ones are left."""
    if directory.is_dir():
        return
    if not directory.parent.is_dir():
        make_directory(directory.parent, 0o755)
    try:
        directory.mkdir(mode=mode & 0o700)
    except FileExistsError:
        if not directory.is_dir():
            raise
    else:
        directory.chmod(mode)


def make_runtime_directory(directory: Path) -> None:
    """Make the private directory of a store's sockets where nobody else can replace it.

    Raises OSError, and StartFailed for a directory, or one above it, that others made ready.
    """
    make_private(directory)
    above, link, own = directory.parent.stat(), directory.parent.lstat(), directory.lstat()
    if not {above.st_uid, link.st_uid} <= {0, os.geteuid()} or (
        above.st_mode & _OTHERS_WRITE and not above.st_mode & stat.S_ISVTX
    ):
        raise StartFailed(
            f"{directory.parent} lets other users replace what is in it: remove it, or set its "
            "owner and mode 0755"
        )
    if own.st_uid != os.geteuid() or own.st_mode & 0o077 or not stat.S_ISDIR(own.st_mode):
        raise StartFailed(
            f"{directory} is not private to user {os.geteuid()}: remove it, or set its owner and "
            "mode 0700"
        )
