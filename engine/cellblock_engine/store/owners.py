"""Who owns what is in a layer: as the disk has it, or written down where it cannot.

In the containers of a user with one id, all files on the disk are that user's. Whom a regular file
or directory belongs to is then in its extended attribute (:mod:`..linux.owners`), root without one.
A symbolic link, a FIFO or a socket cannot have it (xattr(7), "Extended user attributes"): they are
root's. Overlays copy it up with its file.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import InvalidLayer
from ..linux import idmaps
from ..linux.owners import ATTRIBUTE, ROOT, Owner

_ABSENT = (errno.ENODATA, errno.ENOTSUP)


def are_recorded() -> bool:
    """Tell whether this process finds owners written down, as all files are of one user."""
    return os.geteuid() != 0 or idmaps.is_single_here()


def of(status: os.stat_result, file: int) -> tuple[int, int]:
    """Return the user and group of a regular file or directory; ``file`` is it. Raises OSError."""
    return recorded(file) if are_recorded() else (status.st_uid, status.st_gid)


def of_name(status: os.stat_result, name: bytes, directory: int) -> tuple[int, int]:
    """Return the user and group of what is called ``name``, whatever it is. Raises OSError."""
    if not are_recorded():
        return status.st_uid, status.st_gid
    if not stat.S_ISREG(status.st_mode):
        return ROOT
    return recorded(f"/proc/self/fd/{directory}/{os.fsdecode(name)}")


def recorded(file: int | str) -> Owner:
    """Return the user and group that are written down, root's where none are. Raises OSError."""
    try:
        value = _value(file)
    except PermissionError:  # of a file that its owner may not read: nobody's but the caller's
        return ROOT
    return ROOT if value is None else Owner.parse(value)


def record(file: int, uid: int, gid: int) -> None:
    """Write down who a regular file or directory belongs to, if not to root. Raises OSError."""
    if (uid, gid) != ROOT:
        os.setxattr(file, ATTRIBUTE, Owner(uid, gid).value())


def copy(source: int | str, target: int | str) -> None:
    """Let a new directory belong to whom another belongs to. Raises OSError, PermissionError."""
    model, own = (os.stat(each) for each in (source, target))  # noqa: PTH116 - or descriptors
    differ = (model.st_uid, model.st_gid) != (own.st_uid, own.st_gid)
    if differ and not idmaps.is_single_here():  # where others are only shown as nobody
        os.chown(target, model.st_uid, model.st_gid)
    if are_recorded() and (value := _value(source)) is not None:
        os.setxattr(target, ATTRIBUTE, value)


def unmapped(name: bytes, uid: int, gid: int) -> InvalidLayer:
    """Return the error for ids that the containers of this user do not have."""
    return InvalidLayer(
        f"{os.fsdecode(name[-80:])!r} of the layer belongs to {uid}:{gid}, and this user's "
        f"containers have the ids 0 to {idmaps.own_ids() - 1}: use a store of one id, which "
        "writes owners down (CELLBLOCK_STORE_IDS=single)"
    )


def _value(file: int | str) -> bytes | None:
    try:
        if isinstance(file, int):
            return os.getxattr(file, ATTRIBUTE)
        return os.getxattr(file, ATTRIBUTE, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None
