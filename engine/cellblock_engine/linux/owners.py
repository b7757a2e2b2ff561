"""Owners written beside files, where the disk cannot have them: the user namespace has one id.

The attribute is of regular files and directories, and absent where the owner is 0:0. Whoever writes
in a container can write it too, and may claim any owner, as by chown(2).
"""

from __future__ import annotations

from typing import NamedTuple

ATTRIBUTE = "user.cellblock.owner"
LARGEST_ID = 65535
"""As in containers whose ids are a range; a layer may name more."""
_LARGEST = 2**32 - 2  # (uid_t)-1 means none: chown(2)


class Owner(NamedTuple):
    """A user and a group, as a container counts them."""

    uid: int
    gid: int

    @classmethod
    def parse(cls, value: bytes) -> Owner:
        """Return what the attribute says; that a file is root's where that makes no sense."""
        uid, colon, gid = value.partition(b":")
        if colon and _is_id(uid) and _is_id(gid):
            return cls(int(uid), int(gid))
        return ROOT

    def value(self) -> bytes:
        """Return the attribute that says so."""
        return b"%d:%d" % self


ROOT = Owner(0, 0)


def _is_id(text: bytes) -> bool:
    return text.isdigit() and len(text) <= len(str(_LARGEST)) and int(text) <= _LARGEST
