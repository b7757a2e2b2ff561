"""System calls Python 3.11 does not wrap, under their kernel names.

Each wrapper is a few lines: arguments as the man page has them, ``OSError`` with the errno on
failure. Constants keep the names of the kernel headers. Only ctypes is imported: this module is
on the path of every container start.
"""

from __future__ import annotations

import ctypes
import os
import struct

# PyDLL keeps the GIL: a call that forks (clone3) must not leave it to a thread that is not there.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_X86_64 = os.uname().machine == "x86_64"

_NR_PIVOT_ROOT = 155 if _X86_64 else 41
_NR_KEYCTL = 250 if _X86_64 else 219
_NR_FCHOWNAT = 260 if _X86_64 else 54
_NR_SECCOMP = 317 if _X86_64 else 277
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_CLONE3 = 435
_NR_CLOSE_RANGE = 436
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
_NR_LANDLOCK_CREATE_RULESET = 444
_NR_LANDLOCK_ADD_RULE = 445
_NR_LANDLOCK_RESTRICT_SELF = 446

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17

CLOSE_RANGE_MAX = 0xFFFFFFFF

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_IDMAP = 0x100000

MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

KEYCTL_JOIN_SESSION_KEYRING = 1
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_GET_ACTION_AVAIL = 2
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5

LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_ACCESS_FS_EXECUTE = 1 << 0
LANDLOCK_ACCESS_FS_WRITE_FILE = 1 << 1
LANDLOCK_ACCESS_FS_REMOVE_AND_MAKE = 0b1_1111_1111 << 4  # REMOVE_DIR to MAKE_SYM
LANDLOCK_ACCESS_FS_REFER = 1 << 13

_CAPABILITY_VERSION_3 = 0x20080522


def _check(result: int, what: str | bytes | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def clone3(flags: int, *, cgroup: int | None = None) -> tuple[int, int]:
    """Fork with new namespaces. Returns ``(pid, pidfd)`` in the parent, ``(0, -1)`` in the child.

    Only for single-threaded processes: no atfork hook runs. With CLONE_PARENT the child becomes
    its creator's sibling, and ends with its creator's exit signal. ``cgroup`` is a descriptor of
    the directory of a group (v2) that the child is born into, else it has its creator's. clone3(2).
    """
    pidfd = ctypes.c_int(-1)
    exit_signal = 0 if flags & CLONE_PARENT else _SIGCHLD
    words = [flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0]
    if cgroup is not None:
        words[0] |= CLONE_INTO_CGROUP
        words += [0, 0, cgroup]
    arguments = struct.pack(f"{len(words)}Q", *words)
    pid = _check(_syscall(_NR_CLONE3, arguments, ctypes.c_size_t(len(arguments))), "clone3")
    return pid, (pidfd.value if pid else -1)


def close_range(first: int, last: int) -> None:
    """Close every descriptor from ``first`` to ``last``. close_range(2), Linux 5.9."""
    _check(_syscall(_NR_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0), "close_range")


def setns(fd: int, flags: int) -> None:
    """Join the namespaces ``flags`` of a pidfd, or the one of a namespace descriptor. setns(2)."""
    _check(_libc.setns(fd, flags), "setns")


def unshare(flags: int) -> None:
    """Leave the namespaces ``flags`` for new ones. unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """Operate on the calling process. prctl(2)."""
    words = (ctypes.c_ulong(value) for value in (a, b, c, d))
    return _check(_libc.prctl(option, *words), "prctl")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling process's capability sets, given as bit masks. capset(2)."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    sets = (effective, permitted, inheritable)
    body = struct.pack("6I", *(s & low for s in sets), *(s >> high for s in sets))
    _check(_libc.capset(header, body), "capset")


def keyctl_join_session_keyring() -> None:
    """Leave the inherited session keyring for a new, anonymous one. keyctl(2)."""
    _check(_syscall(_NR_KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")


def seccomp_set_mode_filter(program: bytes, flags: int = 0) -> int:
    """Install a classic BPF program (packed ``struct sock_filter``) as filter. seccomp(2).

    Returns the listener with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    return _check(_syscall(_NR_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, fprog), "seccomp")


def seccomp_action_available(action: int) -> None:
    """Raise OSError (EOPNOTSUPP) for what a filter cannot answer in this kernel. seccomp(2)."""
    value = ctypes.c_uint32(action)
    _check(_syscall(_NR_SECCOMP, SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(value)), "seccomp")


def file_system_type(fd: int) -> int:
    """Return the magic number of the file system that a file is on. fstatfs(2)."""
    answer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(fd, answer), "fstatfs")
    return ctypes.c_long.from_buffer(answer).value


def landlock_abi() -> int:
    """Return the version of Landlock's interface. landlock_create_ruleset(2)."""
    no_size, flags = ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION
    return _check(_syscall(_NR_LANDLOCK_CREATE_RULESET, None, no_size, flags), "landlock")


def landlock_create_ruleset(handled_access_fs: int) -> int:
    """Return a ruleset: what it handles is forbidden but by rule. landlock_create_ruleset(2)."""
    attributes = struct.pack("Q", handled_access_fs)
    size = ctypes.c_size_t(len(attributes))
    return _check(_syscall(_NR_LANDLOCK_CREATE_RULESET, attributes, size, 0), "landlock")


def landlock_add_rule(ruleset: int, allowed_access: int, parent_fd: int) -> None:
    """Allow accesses to the files at and below ``parent_fd``. landlock_add_rule(2)."""
    rule = struct.pack("=Qi", allowed_access, parent_fd)
    what = LANDLOCK_RULE_PATH_BENEATH
    _check(_syscall(_NR_LANDLOCK_ADD_RULE, ruleset, what, rule, 0), "landlock")


def landlock_restrict_self(ruleset: int) -> None:
    """Put the calling thread under a ruleset, for good. landlock_restrict_self(2)."""
    _check(_syscall(_NR_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock")


def personality(persona: int) -> None:
    """Set the execution domain; 0 is plain Linux, addresses randomised. personality(2)."""
    _check(_libc.personality(ctypes.c_ulong(persona)), "personality")


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Change the root mount. pivot_root(2)."""
    _check(_syscall(_NR_PIVOT_ROOT, new_root, put_old), "pivot_root")


def umount2(target: bytes, flags: int) -> None:
    """Unmount. umount(2)."""
    _check(_libc.umount2(target, flags), target)


def mount(
    source: bytes | None, target: bytes, fstype: bytes | None, flags: int, options: bytes | None
) -> None:
    """Mount by path, the old way. mount(2)."""
    _check(_libc.mount(source, target, fstype, ctypes.c_ulong(flags), options), target)


def open_tree(dirfd: int, path: bytes, flags: int) -> int:
    """Return a descriptor of a mount or, with OPEN_TREE_CLONE, of a detached copy. open_tree(2)."""
    return _check(_syscall(_NR_OPEN_TREE, dirfd, path, flags), path)


def move_mount(from_fd: int, to_fd: int, to_path: bytes = b"") -> None:
    """Attach the mount ``from_fd`` at ``to_path`` below ``to_fd`` (or at it). move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else MOVE_MOUNT_T_EMPTY_PATH)
    _check(_syscall(_NR_MOVE_MOUNT, from_fd, b"", to_fd, to_path, flags), to_path)


def mount_setattr(
    dirfd: int, path: bytes, flags: int, attr_set: int, *, attr_clr: int = 0, userns_fd: int = 0
) -> None:
    """Change the attributes of a mount. mount_setattr(2)."""
    attributes = struct.pack("4Q", attr_set, attr_clr, 0, userns_fd)
    size = ctypes.c_size_t(len(attributes))
    _check(_syscall(_NR_MOUNT_SETATTR, dirfd, path, flags, attributes, size), path)


def fsopen(fstype: bytes) -> int:
    """Open a context in which a new file system is configured. fsopen(2)."""
    return _check(_syscall(_NR_FSOPEN, fstype, FSOPEN_CLOEXEC), fstype)


def fsconfig_string(fd: int, key: bytes, value: bytes) -> None:
    """Set a string option; at most 256 bytes (the kernel's limit). fsconfig(2)."""
    _check(_syscall(_NR_FSCONFIG, fd, FSCONFIG_SET_STRING, key, value, 0), key)


def fsconfig_flag(fd: int, key: bytes) -> None:
    """Set an option without value. fsconfig(2)."""
    _check(_syscall(_NR_FSCONFIG, fd, FSCONFIG_SET_FLAG, key, None, 0), key)


def fsconfig_create(fd: int) -> None:
    """Create the file system that was configured. fsconfig(2)."""
    _check(_syscall(_NR_FSCONFIG, fd, FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig create")


def fsmount(fd: int, attributes: int) -> int:
    """Return a detached mount of the file system created in ``fd``. fsmount(2)."""
    return _check(_syscall(_NR_FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes), "fsmount")


def openat2(dirfd: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open below ``dirfd`` under the restrictions ``resolve``. openat2(2)."""
    how = struct.pack("3Q", flags | os.O_CLOEXEC, mode, resolve)
    return _check(_syscall(_NR_OPENAT2, dirfd, path, how, ctypes.c_size_t(len(how))), path)


def fchownat(dirfd: int, path: bytes, owner: int, group: int, flags: int) -> None:
    """Change owner and group, -1 leaves one; AT_EMPTY_PATH means ``dirfd`` itself. fchownat(2)."""
    ids = ctypes.c_uint(owner & 0xFFFFFFFF), ctypes.c_uint(group & 0xFFFFFFFF)
    _check(_syscall(_NR_FCHOWNAT, dirfd, path, *ids, flags), path)


def syncfs(fd: int) -> None:
    """Write out everything of the file system that holds ``fd``. syncfs(2)."""
    unlocked = ctypes.CDLL(None, use_errno=True)  # it may take long: other threads go on
    _check(unlocked.syncfs(fd), "syncfs")
