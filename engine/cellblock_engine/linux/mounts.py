"""Mounts by descriptor, and paths that cannot leave their root.

Two rules hold throughout: a mount is attached to a descriptor, never to a path string, and a
path below a root that somebody else wrote is resolved by the kernel under RESOLVE_IN_ROOT.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence

from . import syscalls as sys

NO_LINKS = sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS
_NULL_DEVICE = os.makedev(1, 3)
_MOST_COMPONENTS = 128
_MOST_LINKS = 40  # as the kernel's own path resolution


def clone_tree(
    path: bytes, *, recursive: bool, attributes: int, userns_fd: int | None, resolve: int = 0
) -> int:
    """Return a detached copy of the mount at ``path``, found so, with ``attributes`` set.

    With ``userns_fd`` it is idmapped: id N of that namespace is id N on disk. Raises OSError;
    EINVAL where the file system cannot be idmapped (mount_setattr(2)).
    """
    recurse = sys.AT_RECURSIVE if recursive else 0
    flags = sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | sys.AT_EMPTY_PATH | recurse
    place = sys.openat2(sys.AT_FDCWD, path, os.O_PATH, 0, resolve)
    try:
        fd = sys.open_tree(place, b"", flags)
    finally:
        os.close(place)
    try:
        if userns_fd is not None:
            attributes |= sys.MOUNT_ATTR_IDMAP
        if attributes:
            sys.mount_setattr(
                fd, b"", sys.AT_EMPTY_PATH | recurse, attributes, userns_fd=userns_fd or 0
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


def clone_mapped(path: bytes, *, attributes: int, userns_fd: int) -> int:
    """Return a detached, idmapped copy of what is at ``path``, if possible with mounts below it.

    The path leads through no symbolic link. Raises OSError; EINVAL as :func:`clone_tree`.
    """
    place = sys.openat2(sys.AT_FDCWD, path, os.O_PATH, 0, NO_LINKS)
    try:
        for recurse in (sys.AT_RECURSIVE, 0):
            flags = sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | sys.AT_EMPTY_PATH | recurse
            fd = sys.open_tree(place, b"", flags)
            try:
                sys.mount_setattr(
                    fd,
                    b"",
                    sys.AT_EMPTY_PATH | recurse,
                    attributes | sys.MOUNT_ATTR_IDMAP,
                    userns_fd=userns_fd,
                )
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EINVAL or not recurse:
                    raise
                continue
            return fd
    finally:
        os.close(place)
    raise AssertionError("one of both returns or raises")


def new_filesystem(
    fstype: bytes, options: Iterable[tuple[bytes, bytes | None]], attributes: int = 0
) -> int:
    """Return a detached mount of a new file system; an option of None is a flag."""
    context = sys.fsopen(fstype)
    try:
        for key, value in options:
            if value is None:
                sys.fsconfig_flag(context, key)
            else:
                sys.fsconfig_string(context, key, value)
        sys.fsconfig_create(context)
        return sys.fsmount(context, attributes)
    finally:
        os.close(context)


def overlay(lowers: Sequence[bytes], upper: bytes, work: bytes) -> int:
    """Return a detached overlay; ``lowers`` are given top-most first.

    Paths are short and relative to the working directory: a string option holds 256 bytes, and
    ``lowerdir+`` (Linux 6.8) takes each lower alone. Older kernels get all of them in one
    ``lowerdir``, which holds about 100. ``volatile`` leaves out syncing: an upper that a power
    loss cut short is discarded, not mounted again. Linux: filesystems/overlayfs.rst.
    """
    common = [
        (b"upperdir", upper),
        (b"workdir", work),
        (b"userxattr", None),
        (b"volatile", None),
        (b"metacopy", b"off"),
    ]
    try:
        return new_filesystem(b"overlay", [*((b"lowerdir+", low) for low in lowers), *common])
    except OSError as error:
        # Kernels before 6.5 look at an overlay's options only when it is made.
        if error.errno != errno.EINVAL:
            raise
    joined = b":".join(lowers)
    options = b"lowerdir=%b,upperdir=%b,workdir=%b,userxattr,volatile,metacopy=off"
    staging = b"overlay"
    os.mkdir(staging)
    sys.mount(b"overlay", staging, b"overlay", 0, options % (joined, upper, work))
    fd = sys.open_tree(sys.AT_FDCWD, staging, sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC)
    sys.umount2(staging, sys.MNT_DETACH)
    os.rmdir(staging)
    return fd


def open_in_root(root_fd: int, path: bytes, *, follow: bool = True) -> int:
    """Return an O_PATH descriptor of ``path`` resolved as if ``root_fd`` were the root.

    Magic links are refused (ELOOP), and without ``follow`` every symbolic link is.
    """
    resolve = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS
    if not follow:
        resolve |= sys.RESOLVE_NO_SYMLINKS
    return sys.openat2(root_fd, path.lstrip(b"/") or b".", os.O_PATH, 0, resolve)


def is_directory(root_fd: int, path: bytes) -> bool:
    """Tell whether there is a directory at ``path`` in the root."""
    try:
        fd = open_in_root(root_fd, path)
    except OSError:
        return False
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def ensure_directory(root_fd: int, path: bytes, *, mode: int = 0o755, follow: bool = True) -> int:
    """Return a descriptor of the directory ``path`` in the root, made with its parents if missing.

    Raises NotADirectoryError where something else is in the way.
    """
    try:
        fd = open_in_root(root_fd, path, follow=follow)
    except FileNotFoundError:
        parent, name = _split(path)
        parent_fd = ensure_directory(root_fd, parent, follow=follow)
        try:
            os.mkdir(name, mode, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)
        fd = open_in_root(root_fd, path, follow=follow)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory", path)
    return fd


def ensure_file(root_fd: int, path: bytes) -> int:
    """Return a descriptor of the non-directory ``path`` in the root, made empty if missing.

    Where it is a symbolic link that leads nowhere (as ``/etc/resolv.conf`` into ``/run`` often
    is), what it leads to is made. Raises IsADirectoryError.
    """
    place = path
    for _ in range(_MOST_LINKS):
        try:
            fd = open_in_root(root_fd, place)
        except FileNotFoundError:
            place = _make_file(root_fd, place) or place
            continue
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        return fd
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _make_file(root_fd: int, path: bytes) -> bytes | None:
    """Make a file that is missing; return the place to look at instead if it is a link."""
    parent, name = _split(path)
    parent_fd = ensure_directory(root_fd, parent)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=parent_fd))
    except FileExistsError:
        target = os.readlink(name, dir_fd=parent_fd)
        return target if target.startswith(b"/") else parent + b"/" + target
    finally:
        os.close(parent_fd)
    return None


def is_null_device(fd: int) -> bool:
    """Tell whether the descriptor is the kernel's null device, whatever its name says."""
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE


def _split(path: bytes) -> tuple[bytes, bytes]:
    parent, _, name = path.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b"..") or path.count(b"/") > _MOST_COMPONENTS:
        raise OSError(errno.EINVAL, "not a place that can be made", path)
    return parent, name
