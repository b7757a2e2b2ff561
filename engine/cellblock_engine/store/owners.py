"""Who owns what is in a layer: as the disk has it, or written down where it cannot.

In the containers of a user with one id, all files on the disk are that user's. Whom a regular file
or directory belongs to is then in its extended attribute ``user.cellblock.owner``, as
``UID:GID`` in decimal digits, and without one to 0:0. A symbolic link, a FIFO or a socket cannot
have it (xattr(7), "Extended user attributes"): they are 0:0. Overlays copy it up with its file.

A container can write it on its own files; what is no such pair says nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from ..errors import InvalidLayer
from ..linux import idmaps

ATTRIBUTE = "user.cellblock.owner"
ROOT = (0, 0)
_PAIR = re.compile(rb"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})")
_LARGEST = 2**32 - 2  # (uid_t)-1 means none: chown(2)
_ABSENT = (errno.ENODATA, errno.ENOTSUP, errno.EACCES)  # the last is not told to root inside


def are_recorded() -> bool:
    """Tell whether this process finds owners written down, as all files are of one user."""
    return os.geteuid() != 0 or idmaps.is_single_here()


def of(status: os.stat_result, file: int | str) -> tuple[int, int]:
    """Return the user and group of a regular file or directory; ``file`` is it. Raises OSError."""
    return recorded(file) if are_recorded() else (status.st_uid, status.st_gid)


def of_name(status: os.stat_result, name: bytes, directory: int) -> tuple[int, int]:
    """Return the user and group of what is called ``name``, whatever it is. Raises OSError."""
    if not are_recorded():
        return status.st_uid, status.st_gid
    if not stat.S_ISREG(status.st_mode):
        return ROOT
    return recorded(f"/proc/self/fd/{directory}/{os.fsdecode(name)}")


def recorded(file: int | str) -> tuple[int, int]:
    """Return the user and group that are written down, root's where none are. Raises OSError."""
    try:
        if isinstance(file, int):
            value = os.getxattr(file, ATTRIBUTE)
        else:
            value = os.getxattr(file, ATTRIBUTE, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return ROOT
    pair = _PAIR.fullmatch(value)
    found = (int(pair[1]), int(pair[2])) if pair else ROOT
    return found if max(found) <= _LARGEST else ROOT


def record(file: int, owner: tuple[int, int]) -> None:
    """Write down who a regular file or directory belongs to. Raises OSError."""
    if owner != ROOT:
        os.setxattr(file, ATTRIBUTE, b"%d:%d" % owner)
        return
    try:
        os.removexattr(file, ATTRIBUTE)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def copy(source: int | str, target: int | str) -> None:
    """Let a directory belong to whom another belongs to. Raises OSError, PermissionError."""
    model, own = (os.stat(each) for each in (source, target))  # noqa: PTH116 - or descriptors
    if (model.st_uid, model.st_gid) != (own.st_uid, own.st_gid):
        os.chown(target, model.st_uid, model.st_gid)
    if are_recorded():
        with suppress(FileNotFoundError):
            value = _value(source)
            if value is not None:
                os.setxattr(target, ATTRIBUTE, value)


def _value(file: int | str) -> bytes | None:
    try:
        return os.getxattr(file, ATTRIBUTE)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None


def unmapped(name: bytes, owner: tuple[int, int]) -> InvalidLayer:
    """Return the error for ids that the containers of this user do not have."""
    count = min(idmaps.count_here("uid_map"), idmaps.count_here("gid_map"))
    return InvalidLayer(
        f"{os.fsdecode(name[-80:])!r} of the layer belongs to {owner[0]}:{owner[1]}, and this "
        f"user's containers have the ids 0 to {count - 1}: use a store of one id, which writes "
        "owners down (CELLBLOCK_STORE_IDS=single)"
    )
