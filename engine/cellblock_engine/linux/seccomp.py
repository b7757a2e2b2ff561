"""The system call filter: an allow-list, compiled to classic BPF in plain Python.

The list has the shape of Docker's default profile for a process without capabilities, less what
a sandbox should not offer: io_uring, namespaces, the mount family, keys, BPF, perf, userfaultfd,
and every socket family but UNIX, INET, INET6 and route netlink. It is one fixed policy and
refuses to be a profile language: no JSON, no argument expressions from outside. What processes
of the engine's own need is so little that they name it (:func:`compile_narrow`).

Answers: what is known but not listed EPERM; clone3 ENOSYS (its flags are in memory, where a filter
cannot see them; libraries then fall back to clone); numbers this table does not know ENOSYS, as an
older kernel would say, so that libraries fall back as well; system calls of another architecture
or of the x32 ABI end the process, because their numbers mean other calls.

seccomp(2); Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Collection, Mapping

from . import bpf, syscalls
from .syscall_numbers import numbers

_ALLOWED = """
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range
creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2
fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
fgetxattr file_getattr file_setattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs
fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list
get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer
getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr getxattrat
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_setup io_submit ioprio_get ioprio_set kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget
msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat
openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address
setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown
sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range
syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname
unlink unlinkat uprobe uretprobe utime utimensat utimes vfork vmsplice wait4 waitid write writev
"""

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_SOCK_TYPE_MASK, _SOCK_PACKET = 0xF, 10
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_CLONE_NEWTIME = 0x80
_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
)
# PER_LINUX, PER_LINUX32, each with and without UNAME26, and the query.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# Arguments are compared by their low halves only: the kernel itself cuts each of those looked at
# here to 32 bits, so bits above must not make them look like another.
_X32_BIT = 0x40000000
_SKIPPED_BY_TRACER = 0xFFFFFFFF

_REFUSE = bpf.refuse(errno.EPERM)
_UNKNOWN = bpf.refuse(errno.ENOSYS)
_NO_FAMILY = bpf.refuse(errno.EAFNOSUPPORT)


def compile_filter(machine: str) -> bytes:
    """Return the filter for ``x86_64`` or ``aarch64`` as packed ``struct sock_filter``.

    Cached for the life of the process. Raises ValueError for a machine without a table.
    """
    if machine not in bpf.AUDIT_ARCH:
        raise ValueError(f"no system call table for {machine}: x86_64 and aarch64 have one")
    return _compiled(machine)


def compile_narrow(machine: str, names: Collection[str]) -> bytes:
    """Return a filter that allows these calls and no other, for a process of the engine's own.

    Raises KeyError as :func:`numbers` does.
    """
    return bpf.pack(_prologue(machine) + bpf.by_number(_actions(machine, names, {})))


@functools.cache
def _compiled(machine: str) -> bytes:
    actions = _actions(machine, set(_ALLOWED.split()), _conditional())
    return bpf.pack(_prologue(machine) + bpf.by_number(actions))


def install(program: bytes) -> None:
    """Put the calling thread under the filter, for good; no_new_privs must be set already.

    Raises OSError (EACCES without no_new_privs, EINVAL for a broken program).
    """
    syscalls.seccomp_set_mode_filter(program)


def host_filter() -> bytes:
    """Return the filter for the machine this runs on. Raises ValueError as compile_filter."""
    return compile_filter(os.uname().machine)


def _prologue(machine: str) -> bpf.Code:
    """Refuse foreign ABIs; leave the system call's number in the accumulator."""
    program = [
        (bpf.LOAD, 0, 0, bpf.ARCH),
        (bpf.JUMP_EQ, 1, 0, bpf.AUDIT_ARCH[machine]),
        (bpf.RETURN, 0, 0, bpf.KILL_PROCESS),
        (bpf.LOAD, 0, 0, bpf.NR),
    ]
    if machine == "x86_64":
        program += [
            (bpf.JUMP_GE, 0, 3, _X32_BIT),
            (bpf.JUMP_EQ, 0, 1, _SKIPPED_BY_TRACER),  # a debugger's doing, not a foreign call
            (bpf.RETURN, 0, 0, _UNKNOWN),
            (bpf.RETURN, 0, 0, bpf.KILL_PROCESS),
        ]
    return program


def _actions(
    machine: str, allowed: Collection[str], conditional: Mapping[str, bpf.Code]
) -> list[bpf.Code]:
    """Return, indexed by number, the code that decides each call; the last is for all above."""
    table = numbers(machine)
    decided: list[bpf.Code] = [bpf.answer(_UNKNOWN) for _ in range(max(table.values()) + 2)]
    for name, number in table.items():
        decided[number] = bpf.answer(bpf.ALLOW if name in allowed else _REFUSE)
        if name in conditional:
            decided[number] = conditional[name]
    return decided


def _conditional() -> dict[str, bpf.Code]:
    """Return the code for those calls whose arguments decide."""
    return {
        "clone": _refuse_bits(_NAMESPACES),
        "clone3": bpf.answer(_UNKNOWN),
        "ioctl": _refuse_values(1, (_TIOCSTI, _TIOCLINUX)),
        "personality": _allow_values(0, _PERSONALITIES, _REFUSE),
        "socket": _socket(),
        "socketpair": _allow_values(0, (_AF_UNIX,), _NO_FAMILY),
        "unshare": _refuse_bits(_NAMESPACES | _CLONE_NEWTIME),
    }


def _socket() -> bpf.Code:
    """Allow UNIX, INET, INET6 and route netlink; INET with SOCK_PACKET means AF_PACKET."""
    return [
        (bpf.LOAD, 0, 0, bpf.ARGUMENTS[0]),
        (bpf.JUMP_EQ, 9, 0, _AF_UNIX),
        (bpf.JUMP_EQ, 8, 0, _AF_INET6),
        (bpf.JUMP_EQ, 3, 0, _AF_INET),
        (bpf.JUMP_EQ, 0, 5, _AF_NETLINK),
        (bpf.LOAD, 0, 0, bpf.ARGUMENTS[2]),
        (bpf.JUMP_EQ, 4, 3, _NETLINK_ROUTE),
        (bpf.LOAD, 0, 0, bpf.ARGUMENTS[1]),
        (bpf.AND, 0, 0, _SOCK_TYPE_MASK),
        (bpf.JUMP_EQ, 0, 1, _SOCK_PACKET),
        *bpf.answer(_NO_FAMILY),
        *bpf.answer(bpf.ALLOW),
    ]


def _refuse_bits(mask: int) -> bpf.Code:
    return [
        (bpf.LOAD, 0, 0, bpf.ARGUMENTS[0]),
        (bpf.JUMP_SET, 1, 0, mask),
        *bpf.answer(bpf.ALLOW),
        *bpf.answer(_REFUSE),
    ]


def _refuse_values(argument: int, values: tuple[int, ...]) -> bpf.Code:
    tests = [(bpf.JUMP_EQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [
        (bpf.LOAD, 0, 0, bpf.ARGUMENTS[argument]),
        *tests,
        *bpf.answer(bpf.ALLOW),
        *bpf.answer(_REFUSE),
    ]


def _allow_values(argument: int, values: tuple[int, ...], otherwise: int) -> bpf.Code:
    tests = [(bpf.JUMP_EQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [
        (bpf.LOAD, 0, 0, bpf.ARGUMENTS[argument]),
        *tests,
        *bpf.answer(otherwise),
        *bpf.answer(bpf.ALLOW),
    ]
