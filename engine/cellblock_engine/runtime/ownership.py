"""What a change of owner comes to in a container of one id: the kernel's part, and a note of it.

Answers for the thread that waits (:mod:`..linux.notifications`), seen from the container's user and
mount namespace, where the working directory is the /proc of the host. That thread's words are
hostile, and so is what it does meanwhile: its path is read once, and resolved without magic links;
nothing is opened for more than to be named, so no pipe or device can hold this up; and no file is
changed but on the overlays of the container itself, whatever a path or a descriptor leads to.

chown(2), openat2(2), seccomp_unotify(2).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..linux import notifications, owners
from ..linux import syscalls as linux
from ..linux.fake_ids import CHANGES_OF_OWNERS
from ..linux.notifications import Notification
from ..linux.syscall_numbers import numbers

_PATH_MAX = 4096
_PAGE = 4096  # or a multiple of it
_LOW = 0xFFFFFFFF  # of a register: the kernel's own types are so large
_UNCHANGED = 0xFFFFFFFF
_LARGEST_OFFSET = 2**63 - 1
_AT_SYMLINK_NOFOLLOW = 0x100
_MOST_MOUNTS = 1 << 26  # bytes of /proc/self/mountinfo
# Magic links of the caller, which it means, and which are the recorder's own if it follows them.
_OWN_DESCRIPTOR = re.compile(rb"(?:/proc/self|/dev)/fd/(\d{1,10})|/dev/std(in|out|err)")
_STANDARD = {b"in": 0, b"out": 1, b"err": 2}


class _Request(NamedTuple):
    """fchownat(2); ``address`` is the path's in the caller's memory, None if it gave none."""

    place: int
    address: int | None
    uid: int
    gid: int
    flags: int


class Ownership:
    """Changes owners as far as there are any, and writes down what cannot be."""

    def __init__(self, machine: str, foreign: frozenset[bytes]) -> None:
        """Look at the mounts of this namespace; /proc is the working directory.

        ``foreign`` are the devices of overlays that are not the container's (:func:`overlays`).
        """
        table = numbers(machine)
        self._names = {table[name]: name for name in CHANGES_OF_OWNERS if name in table}
        self._overlays = overlays(None).own(foreign)
        root = os.stat(b"/")
        self._root = root.st_dev, root.st_ino

    def change(self, listener: int, notification: Notification) -> int:
        """Do what a call asks for, and return the errno that is its answer, 0 for none."""
        try:
            request = self._request(notification)
            with _thread(listener, notification) as thread, self._file(thread, request) as file:
                self._apply(file, request)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _request(self, notification: Notification) -> _Request:
        first, second, third, fourth, fifth, _ = notification.arguments
        match self._names.get(notification.number):
            case "chown":
                request = _Request(linux.AT_FDCWD, first, second, third, 0)
            case "lchown":
                request = _Request(linux.AT_FDCWD, first, second, third, _AT_SYMLINK_NOFOLLOW)
            case "fchown":
                request = _Request(_signed(first), None, second, third, 0)
            case _:
                request = _Request(_signed(first), second, third, fourth, fifth & _LOW)
        if request.flags & ~(_AT_SYMLINK_NOFOLLOW | linux.AT_EMPTY_PATH):
            raise OSError(errno.EINVAL, "flags")
        uid, gid = request.uid & _LOW, request.gid & _LOW
        if any(owners.LARGEST_ID < each != _UNCHANGED for each in (uid, gid)):
            raise OSError(errno.EINVAL, "ids")
        return request._replace(uid=uid, gid=gid)

    @contextmanager
    def _file(self, thread: int, request: _Request) -> Iterator[int]:
        fd = self._open(thread, request)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, thread: int, request: _Request) -> int:
        """Return an O_PATH descriptor of the file that is meant."""
        if request.address is None:
            return _descriptor(thread, request.place, usable=True)
        path = _path(thread, request.address)
        if not path:
            if not request.flags & linux.AT_EMPTY_PATH:
                raise OSError(errno.ENOENT, "path")
            return _place(thread, request.place)
        follow = not request.flags & _AT_SYMLINK_NOFOLLOW
        own = _OWN_DESCRIPTOR.fullmatch(path) if follow else None
        if own is not None:
            return _descriptor(thread, int(own[1]) if own[1] else _STANDARD[own[2]], usable=False)
        self._refuse_other_root(thread)
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        if path.startswith(b"/"):
            return linux.openat2(linux.AT_FDCWD, path, flags, 0, linux.RESOLVE_NO_MAGICLINKS)
        place = _place(thread, request.place)
        try:
            return linux.openat2(place, path, flags, 0, linux.RESOLVE_NO_MAGICLINKS)
        finally:
            os.close(place)

    def _refuse_other_root(self, thread: int) -> None:
        """Nobody inside can have another: what it means by a path would be something else."""
        root = os.stat(b"root", dir_fd=thread)
        if (root.st_dev, root.st_ino) != self._root:
            raise OSError(errno.EPERM, "root")

    def _apply(self, file: int, request: _Request) -> None:
        if _mount(file) not in self._overlays:
            # What is attached is no part of an image; the kernel has but one owner for it.
            if os.fstatvfs(file).f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, "mount")
            return
        # To the one owner there is: that copies the file up, takes set-id bits and capabilities
        # from it and says what is wrong, as for every change.
        uid, gid = (-1 if each == _UNCHANGED else 0 for each in (request.uid, request.gid))
        linux.fchownat(file, b"", uid, gid, linux.AT_EMPTY_PATH)
        mode = os.fstat(file).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # others cannot have attributes
            _record(file, request)


def _record(file: int, request: _Request) -> None:
    # By its link, as it is not open for reading: some files block who opens them.
    link = b"self/fd/%d" % file
    try:
        value = os.getxattr(link, owners.ATTRIBUTE)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ERANGE):
            raise
        value = b""
    was = owners.Owner.parse(value)
    owner = owners.Owner(
        was.uid if request.uid == _UNCHANGED else request.uid,
        was.gid if request.gid == _UNCHANGED else request.gid,
    )
    if owner != owners.ROOT:
        if owner.value() != value:
            os.setxattr(link, owners.ATTRIBUTE, owner.value())
    elif value:
        os.removexattr(link, owners.ATTRIBUTE)


@contextmanager
def _thread(listener: int, notification: Notification) -> Iterator[int]:
    """Open the directory in /proc of the thread that waits."""
    name = b"%d" % notification.pid
    thread = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Else the number may be another's by now. From here on the descriptor means this thread.
        if not notifications.is_waiting(listener, notification):
            raise OSError(errno.ESRCH, "thread")
        yield thread
    finally:
        os.close(thread)


def _place(thread: int, number: int) -> int:
    """Return what paths of the thread are relative to."""
    if number == linux.AT_FDCWD:
        return os.open(b"cwd", os.O_PATH | os.O_CLOEXEC, dir_fd=thread)
    return _descriptor(thread, number, usable=False)


def _descriptor(thread: int, number: int, *, usable: bool) -> int:
    """Return what a descriptor of the thread leads to; ``usable`` ones are open for more."""
    if number < 0:
        raise OSError(errno.EBADF, "descriptor")
    try:
        if usable and int(_told(b"fdinfo/%d" % number, b"flags:", thread), 8) & os.O_PATH:
            raise OSError(errno.EBADF, "descriptor")
        return os.open(b"fd/%d" % number, os.O_PATH | os.O_CLOEXEC, dir_fd=thread)
    except FileNotFoundError:
        raise OSError(errno.EBADF, "descriptor") from None


def _path(thread: int, address: int) -> bytes:
    """Return the path at an address of the thread's memory."""
    memory = os.open(b"mem", os.O_RDONLY | os.O_CLOEXEC, dir_fd=thread)
    try:
        path = b""
        while len(path) < _PATH_MAX and address <= _LARGEST_OFFSET:
            # The page after it may not be there.
            size = min(_PAGE - address % _PAGE, _PATH_MAX - len(path))
            found = os.pread(memory, size, address)
            if not found:
                break
            text, end, _ = found.partition(b"\0")
            path += text
            if end:
                return path
            address += len(found)
    except OSError as error:
        raise OSError(errno.EFAULT, "path") from error
    finally:
        os.close(memory)
    raise OSError(errno.ENAMETOOLONG if len(path) >= _PATH_MAX else errno.EFAULT, "path")


class Overlays(NamedTuple):
    """The overlays of a mount namespace: id, device and root of each mount."""

    mounts: tuple[tuple[int, bytes, bytes], ...]

    @property
    def devices(self) -> frozenset[bytes]:
        """What tells one overlay from another, wherever it is mounted."""
        return frozenset(device for _, device, _ in self.mounts)

    def own(self, foreign: frozenset[bytes]) -> frozenset[int]:
        """Return the ids of those that are no parts of others, and on none of these devices."""
        return frozenset(
            number for number, device, root in self.mounts if root == b"/" and device not in foreign
        )


def overlays(proc: int | None) -> Overlays:
    """Return those of the caller's mount namespace; /proc is ``proc``, or is worked in. proc(5).

    What is attached by the caller may be an overlay of the host, or lie on one.
    """
    fd = os.open(b"self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        text = b""
        while len(text) < _MOST_MOUNTS and (more := os.read(fd, 1 << 16)):
            text += more
    finally:
        os.close(fd)
    lines = [line.partition(b" - ") for line in text.splitlines()]
    fields = [(before.split(), after.split()) for before, _, after in lines]
    return Overlays(
        tuple(
            (int(before[0]), before[2], before[3])
            for before, after in fields
            if after[0] == b"overlay"
        )
    )


def _mount(file: int) -> int:
    return int(_told(b"self/fdinfo/%d" % file, b"mnt_id:", None))


def _told(name: bytes, field: bytes, folder: int | None) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        text = os.read(fd, _PAGE)
    finally:
        os.close(fd)
    value = text.partition(field)[2].split(maxsplit=1)
    if not value:
        raise OSError(errno.ESRCH, "descriptor")
    return value[0]


def _signed(argument: int) -> int:
    low = argument & _LOW
    return low - 2**32 if low >= 2**31 else low
