"""The filter that answers, where a user namespace has one id only, what needs more of them.

Who changes its own ids hears that it is done, and stays who it is; who makes a device likewise, and
there is none. Who changes a file's owner waits for whoever holds the filter's listener
(:mod:`.notifications`) to answer. So package managers work, as they do in Charliecloud's images.

It is installed beside the filter of :mod:`.seccomp`, and takes nothing away from that: of both
answers the stricter is given, and to be told that something is done is as strict as an error.
Calls of other architectures are that one's to refuse. seccomp(2), seccomp_unotify(2).
"""

from __future__ import annotations

import functools
import os
import stat

from . import bpf
from .syscall_numbers import numbers

CHANGES_OF_OWNERS = ("chown", "lchown", "fchown", "fchownat")

_CHANGES_OF_IDS = (
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setgroups",
    "setfsuid",
    "setfsgid",
)
_MODE_ARGUMENT = {"mknod": 1, "mknodat": 2}
_DONE = bpf.refuse(0)


@functools.cache
def compile_filter(machine: str) -> bytes:
    """Return the filter for ``x86_64`` or ``aarch64`` as packed ``struct sock_filter``.

    Raises KeyError for a machine without a table.
    """
    table = numbers(machine)
    decided = [bpf.answer(bpf.ALLOW) for _ in range(max(table.values()) + 2)]
    for name in _CHANGES_OF_IDS:
        decided[table[name]] = bpf.answer(_DONE)
    for name in CHANGES_OF_OWNERS:
        if name in table:  # aarch64 has two of the four
            decided[table[name]] = bpf.answer(bpf.USER_NOTIF)
    for name, argument in _MODE_ARGUMENT.items():
        if name in table:
            decided[table[name]] = _no_devices(bpf.ARGUMENTS[argument])
    return bpf.pack(
        [
            (bpf.LOAD, 0, 0, bpf.ARCH),
            (bpf.JUMP_EQ, 1, 0, bpf.AUDIT_ARCH[machine]),
            (bpf.RETURN, 0, 0, bpf.ALLOW),
            (bpf.LOAD, 0, 0, bpf.NR),
            *bpf.by_number(decided),
        ]
    )


def host_filter() -> bytes:
    """Return the filter for the machine this runs on. Raises KeyError as compile_filter."""
    return compile_filter(os.uname().machine)


def _no_devices(mode: int) -> bpf.Code:
    return [
        (bpf.LOAD, 0, 0, mode),
        (bpf.AND, 0, 0, stat.S_IFMT(0xFFFF)),
        (bpf.JUMP_EQ, 1, 0, stat.S_IFCHR),
        (bpf.JUMP_EQ, 0, 1, stat.S_IFBLK),
        *bpf.answer(_DONE),
        *bpf.answer(bpf.ALLOW),
    ]
