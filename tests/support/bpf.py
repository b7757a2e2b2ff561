"""Classic BPF programs of seccomp, interpreted: what would be answered, in how many steps."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Answer(NamedTuple):
    """What a program returns, and after how many instructions."""

    value: int
    steps: int


def interpret(program: bytes, *, arch: int, number: int, arguments: tuple[int, ...] = ()) -> Answer:
    """Return what a program makes of a system call."""
    instructions = list(struct.iter_unpack("HBBI", program))
    six = (*arguments, *(0,) * (6 - len(arguments)))
    packed = struct.pack("IIQ6Q", number, arch, 0, *six)
    accumulator, index = 0, 0
    for step in range(len(instructions)):
        code, jump_true, jump_false, k = instructions[index]
        index += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("I", packed, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x05:
            index += k
        elif code == 0x06:
            return Answer(k, step)
        else:
            test = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: accumulator & k != 0}
            index += jump_true if test[code] else jump_false
    raise AssertionError("the program does not return")
