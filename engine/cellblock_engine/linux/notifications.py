"""System calls that wait until another process has answered them: the kernel's words for that.

seccomp_unotify(2). All that a notification says is the caller's choice, and its arguments' memory
can change at any time: a pid means that caller only if :func:`is_waiting` says so *afterwards*.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import NamedTuple

from . import syscalls

_RECV = 0xC0502100  # _IOWR('!', 0, struct seccomp_notif)
_SEND = 0xC0182101  # _IOWR('!', 1, struct seccomp_notif_resp)
_ID_VALID = 0x40082102  # _IOW('!', 2, __u64)
_NOTIFICATION = struct.Struct("QIIiIQ6Q")
_RESPONSE = struct.Struct("QqiI")


class Notification(NamedTuple):
    """A call that waits: its number and arguments, and its thread, 0 if that is out of sight."""

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]


def install(program: bytes) -> int:
    """Put the calling thread under a filter, for good; return its listener (close-on-exec).

    no_new_privs must be set already. Raises OSError (EBUSY where a filter above has a listener).
    """
    listener = syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        # A chown(2) that can be interrupted is nothing that programs know. Linux 5.19.
        killable = syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        return syscalls.seccomp_set_mode_filter(program, listener | killable)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return syscalls.seccomp_set_mode_filter(program, listener)


def receive(listener: int) -> Notification | None:
    """Return the next call that waits; None if its thread has ended meanwhile. Raises OSError."""
    block = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECV, block)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identifier, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(block)
    return Notification(identifier, pid, number, tuple(arguments))


def is_waiting(listener: int, notification: Notification) -> bool:
    """Tell whether the call waits still; if so, its pid has been its thread's all the time."""
    try:
        fcntl.ioctl(listener, _ID_VALID, struct.pack("Q", notification.id))
    except OSError:
        return False
    return True


def answer(listener: int, notification: Notification, code: int) -> None:
    """Let the call return 0, or fail with this errno; nothing if nobody waits any more."""
    try:
        fcntl.ioctl(listener, _SEND, _RESPONSE.pack(notification.id, 0, -code, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
