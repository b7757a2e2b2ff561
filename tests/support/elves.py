"""ELF files made by hand: nothing in them but what they need."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

X86_64 = 62
_HEAD_BYTES, _SEGMENT_BYTES = 64, 56
_BASE = 0x400000


def elf(
    *needed: str,
    rpath: str | None = None,
    runpath: str | None = None,
    interpreter: str | None = None,
    machine: int = X86_64,
) -> bytes:
    """Return a 64-bit little-endian file; all of it is loaded at one address."""
    strings, places = bytearray(b"\0"), []
    tagged = [(1, name) for name in needed]
    tagged += [(tag, path) for tag, path in ((15, rpath), (29, runpath)) if path is not None]
    for tag, text in tagged:
        places.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    start = _HEAD_BYTES + 3 * _SEGMENT_BYTES
    named = (interpreter or "").encode() + b"\0"
    dynamic_at = start + len(named) + len(strings)
    entries: Sequence[tuple[int, int]] = [
        *places,
        (5, _BASE + start + len(named)),
        (10, len(strings)),
        (0, 0),
    ]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    size = dynamic_at + len(dynamic)
    head = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, _HEAD_BYTES, 0, 0, 64, 56, 3, 0, 0, 0)
    segments = [
        (1, 0, _BASE, size),
        (2, dynamic_at, _BASE + dynamic_at, len(dynamic)),
        (3 if interpreter else 0, start, _BASE + start, len(named)),
    ]
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 5, offset, address, address, length, length, 8)
        for kind, offset, address, length in segments
    )
    return head + table + named + bytes(strings) + dynamic


def write(path: Path, content: bytes) -> str:
    """Write a file with the folders that it is in; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)
