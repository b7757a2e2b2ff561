"""What an ELF file says to the dynamic loader (elf(5), ld.so(8)): its loader, and what it needs.

Files may be anybody's: every number is checked before it is used, what is read is bounded, and
what the loader would not take is no ELF file here. Nothing of it is executed or mapped.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SMALLEST_BYTES = 52  # the header of a 32-bit file
_MAGIC = b"\x7fELF"
_MAX_SEGMENTS = 512
_MAX_DYNAMIC_BYTES = 2**20
_MAX_NEEDED = 4096
_MAX_TEXT_BYTES = 4096
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_END, _NEEDED, _STRINGS, _STRINGS_SIZE, _RPATH, _RUNPATH = 0, 1, 5, 10, 15, 29


class Kind(NamedTuple):
    """Word size, byte order and machine: programs load libraries of their own kind only."""

    word: int
    order: int
    machine: int


@dataclass(frozen=True)
class Elf:
    """What a file needs. ``rpath`` and ``runpath`` are as written, with ``$ORIGIN`` in them."""

    kind: Kind
    interpreter: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size: int


def read(fd: int) -> Elf | None:
    """Return what the open file needs; None where it is no ELF file, or a broken one."""
    try:
        return _read(fd)
    except (_Broken, struct.error, OverflowError):
        return None


class _Broken(Exception):
    pass


def _read(fd: int) -> Elf:
    head = os.pread(fd, 64, 0)
    if len(head) < SMALLEST_BYTES or head[:4] != _MAGIC:
        raise _Broken
    word, order, version = head[4], head[5], head[6]
    if word not in (1, 2) or order not in (1, 2) or version != 1:
        raise _Broken
    code = "<" if order == 1 else ">"
    machine = struct.unpack_from(code + "H", head, 18)[0]
    if word == 2:
        table, entry_size, count = struct.unpack_from(code + "Q14x2H", head, 32)
    else:
        table, entry_size, count = struct.unpack_from(code + "I10x2H", head, 28)
    if not 0 < count <= _MAX_SEGMENTS or entry_size != (56 if word == 2 else 32):
        raise _Broken
    segments = list(_segments(_bytes(fd, table, count * entry_size), code, word))
    strings = _dynamic(fd, segments, code, word)
    return Elf(
        Kind(word, order, machine),
        next((_text(fd, s.offset, s.size) for s in segments if s.kind == _INTERPRETER), None),
        tuple(strings.get(_NEEDED, ())),
        _paths(strings.get(_RPATH, ())),
        _paths(strings.get(_RUNPATH, ())),
    )


def _segments(table: bytes, code: str, word: int) -> Iterator[_Segment]:
    if word == 2:
        for kind, offset, address, size in struct.iter_unpack(code + "I4x2Q8xQ16x", table):
            yield _Segment(kind, offset, address, size)
    else:
        for kind, offset, address, size in struct.iter_unpack(code + "3I4xI12x", table):
            yield _Segment(kind, offset, address, size)


def _dynamic(fd: int, segments: list[_Segment], code: str, word: int) -> dict[int, list[str]]:
    """Return the strings of the dynamic section, by tag; empty for a static program."""
    found = next((segment for segment in segments if segment.kind == _DYNAMIC), None)
    if found is None:
        return {}
    if found.size > _MAX_DYNAMIC_BYTES:
        raise _Broken
    record = struct.Struct(code + ("qQ" if word == 2 else "iI"))
    table = _bytes(fd, found.offset, found.size - found.size % record.size)
    wanted: list[tuple[int, int]] = []
    where = size = 0
    for tag, number in record.iter_unpack(table):
        if tag == _END:
            break
        if tag == _STRINGS:
            where = number
        elif tag == _STRINGS_SIZE:
            size = number
        elif tag in (_NEEDED, _RPATH, _RUNPATH):
            wanted.append((tag, number))
    if len(wanted) > _MAX_NEEDED:
        raise _Broken
    strings: dict[int, list[str]] = {}
    if wanted:
        offset = _offset(segments, where)
        for tag, number in wanted:
            if number >= size:
                raise _Broken
            strings.setdefault(tag, []).append(_text(fd, offset + number, size - number))
    return strings


def _offset(segments: list[_Segment], address: int) -> int:
    """Return where in the file what is loaded at ``address`` is."""
    for segment in segments:
        if segment.kind == _LOAD and 0 <= address - segment.address < segment.size:
            return segment.offset + address - segment.address
    raise _Broken


def _bytes(fd: int, offset: int, size: int) -> bytes:
    if offset >= 2**63 - size:
        raise _Broken
    data = os.pread(fd, size, offset)
    if len(data) < size:
        raise _Broken
    return data


def _text(fd: int, offset: int, size: int) -> str:
    """Return a string that ends with a NUL within ``size`` bytes."""
    if offset >= 2**63 - _MAX_TEXT_BYTES:
        raise _Broken
    text, nul, _ = os.pread(fd, min(size, _MAX_TEXT_BYTES), offset).partition(b"\0")
    if not nul:
        raise _Broken
    return os.fsdecode(text)


def _paths(texts: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for text in texts for path in text.split(":") if path)
