"""The files of a control group: small texts, which the kernel reads and writes line by line."""

from __future__ import annotations

import errno
import os

from ...errors import LimitNotEnforceable

_NOT_TAKEN = (
    errno.ENODEV,
    errno.EINVAL,
    errno.EBUSY,
    errno.ERANGE,
    errno.EPERM,
    errno.EACCES,
    errno.EROFS,
)
_HINTS = {
    errno.EINVAL: "a group above it may allow less",
    errno.ENODEV: "it is no whole disk",
}
_DENIED = (errno.EPERM, errno.EACCES)
_LONGEST_FILE = 16384


def text(directory: str | None, name: str) -> str | None:
    """Return a file's content, None where the kernel or the machine has no such file.

    Raises FileNotFoundError when the group is gone.
    """
    if directory is None:
        return None
    try:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.isdir(directory):
            return None
        raise
    try:
        return os.read(fd, _LONGEST_FILE).decode().strip()
    finally:
        os.close(fd)


def number(directory: str | None, name: str) -> int | None:
    """Return a file's number, as :func:`text` does; None for ``max`` as well."""
    found = text(directory, name)
    return None if found in (None, "max") else int(found)


def entry(directory: str | None, name: str, key: str) -> int | None:
    """Return the number after ``key`` in a file of ``key number`` lines."""
    for line in (text(directory, name) or "").splitlines():
        found, _, value = line.partition(" ")
        if found == key:
            return int(value)
    return None


def write(path: str, value: int | str) -> None:
    """Write a setting. Raises LimitNotEnforceable where the kernel refuses it, OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        if error.errno not in _NOT_TAKEN:
            raise
        reason = f"the kernel refused {value} for {path}: {error.strerror}"
        hint = _HINTS.get(error.errno)
        if error.errno in _DENIED and os.geteuid() != 0:
            hint = "run as root"
        raise LimitNotEnforceable(f"{reason}; {hint}" if hint else reason) from error
    finally:
        os.close(fd)
