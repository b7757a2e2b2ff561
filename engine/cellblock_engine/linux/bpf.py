"""Classic BPF as seccomp runs it: instructions, answers, and a search by system call number.

It assembles what policies decide (:mod:`.seccomp`, :mod:`.fake_ids`), and decides nothing itself.

seccomp(2); Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

# struct seccomp_data
NR, ARCH = 0, 4
ARGUMENTS = (16, 24, 32)  # the low halves
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP = 0x05  # BPF_JMP | BPF_JA
JUMP_EQ = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GE = 0x35  # BPF_JMP | BPF_JGE | BPF_K
JUMP_SET = 0x45  # BPF_JMP | BPF_JSET | BPF_K
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

# Of what several filters answer, that which is first here is done (ALLOW last).
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
USER_NOTIF = 0x7FC00000
ALLOW = 0x7FFF0000

_MAX_OFFSET = 255  # jt and jf are bytes

Instruction = tuple[int, int, int, int]  # code, jt, jf, k: struct sock_filter
Code = list[Instruction]


def refuse(code: int) -> int:
    """Return the answer that ends a call with this errno; with 0, as if it had been done."""
    return _ERRNO | code


def answer(value: int) -> Code:
    """Return the code that gives this answer."""
    return [(RETURN, 0, 0, value)]


def pack(program: Code) -> bytes:
    """Return the program as the kernel takes it."""
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def by_number(decided: Sequence[Code]) -> Code:
    """Return code that does for each number in the accumulator what is decided at its index.

    The last is for all numbers above. Each of them returns.
    """
    return _search(_ranges(decided))


def _ranges(decided: Sequence[Code]) -> list[tuple[int, Code]]:
    """Merge neighbours that are decided alike into (first number, code)."""
    merged: list[tuple[int, Code]] = []
    for number, code in enumerate(decided):
        if not merged or merged[-1][1] != code:
            merged.append((number, code))
    return merged


def _search(ranges: list[tuple[int, Code]]) -> Code:
    """Return a balanced tree of comparisons over the accumulator; every leaf returns."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    first = ranges[middle][0]
    if len(below) <= _MAX_OFFSET:
        return [(JUMP_GE, len(below), 0, first), *below, *above]
    return [(JUMP_GE, 0, 1, first), (JUMP, 0, 0, len(below)), *below, *above]
