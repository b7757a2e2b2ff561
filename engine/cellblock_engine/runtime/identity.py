"""Who a command runs as, from the container's own /etc/passwd and /etc/group.

The files are the image's and may be anything: only regular files of a sane size are read, with
no name service, codec or locale in between. Everything is bytes.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

_LARGEST_FILE = 1 << 20
_LARGEST_ID = 2**32 - 2  # 2**32 - 1 means "unchanged" to the kernel
_MOST_GROUPS = 1024


class Identity(NamedTuple):
    """Ids as the container counts them, and the home directory."""

    uid: int
    gid: int
    groups: list[int]
    home: bytes


class UnknownUser(Exception):
    """The user or group was named, and the container does not know it."""


def resolve(user: bytes) -> Identity:
    """Return the identity of ``[name|uid][:group|gid]`` in the present root directory.

    Nothing means root. A number needs no entry. Raises UnknownUser, and OSError for files that
    are no plain files.
    """
    name, _, group = user.partition(b":")
    name = name or b"0"
    accounts = _entries(b"/etc/passwd", 7)
    groups = _entries(b"/etc/group", 4)
    account = _account(accounts, name)
    if account is None and (number := _number(name)) is None:
        raise UnknownUser(f"user {os.fsdecode(name)!r} is not in the container's /etc/passwd")
    uid = number if account is None else _number(account[2])
    gid = 0 if account is None else _number(account[3])
    if group:
        gid = _number(group)
        if gid is None:
            gid = next((_number(entry[2]) for entry in groups if entry[0] == group), None)
        if gid is None:
            raise UnknownUser(f"group {os.fsdecode(group)!r} is not in the container's /etc/group")
        extra: list[int] = []
    else:
        login = account[0] if account else b""
        member_of = (_number(entry[2]) for entry in groups if login in entry[3].split(b","))
        extra = [number for number in member_of if number is not None] if login else []
    if uid is None or gid is None:
        raise UnknownUser(f"user {os.fsdecode(user)!r} has no valid ids in /etc/passwd")
    home = (account[5] if account else b"") or b"/"
    return Identity(uid, gid, sorted({gid, *extra})[:_MOST_GROUPS], home)


def _account(accounts: list[list[bytes]], name: bytes) -> list[bytes] | None:
    by_name = next((entry for entry in accounts if entry[0] == name), None)
    number = _number(name)
    if by_name is not None or number is None:
        return by_name
    return next((entry for entry in accounts if _number(entry[2]) == number), None)


def _number(text: bytes) -> int | None:
    if not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number <= _LARGEST_ID else None


def _entries(path: bytes, fields: int) -> list[list[bytes]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", path)
        if status.st_size > _LARGEST_FILE:
            raise OSError(errno.EFBIG, "is larger than 1 MiB", path)
        content = os.read(fd, _LARGEST_FILE)
    finally:
        os.close(fd)
    lines = (line.split(b":") for line in content.split(b"\n"))
    return [line for line in lines if len(line) >= fields]
