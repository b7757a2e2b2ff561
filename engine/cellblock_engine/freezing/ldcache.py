"""The dynamic loader's cache of where libraries are: read, and made smaller.

The format of glibc 2.2 and newer (glibc's ``sysdeps/generic/dl-cache.h``), also where it follows
the older one. Libraries for newer processors only are left out: an image is to run elsewhere.
The entries stay in their order, which is the one that the loader searches by.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Container
from typing import NamedTuple

PLACE = "/etc/ld.so.cache"
_MAX_BYTES = 16 * 2**20
_MAX_ENTRIES = 200_000
_MAX_TEXT_BYTES = 4096
_OLD, _NEW = b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1"
_OLD_ENTRY_BYTES, _OLD_HEAD_BYTES = 12, 16
_HEAD = struct.Struct("=20s2IB3xI12x")
_ENTRY = struct.Struct("=i2I4xQ")
_LITTLE, _BIG = 2, 3


class Entry(NamedTuple):
    """A library's name, where it is, and what ABI it is of, in the cache's own numbers."""

    flags: int
    name: str
    path: str


def read(path: str = PLACE) -> tuple[Entry, ...]:
    """Return the entries of a cache; none where there is no cache, or one of another format."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    with open(fd, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    try:
        return _entries(data) if len(data) <= _MAX_BYTES else ()
    except struct.error:
        return ()


def encode(entries: tuple[Entry, ...]) -> bytes:
    """Return a cache of these entries, which are in the order of the one they were read from."""
    strings = bytearray()
    table = bytearray()
    start = _HEAD.size + len(entries) * _ENTRY.size
    for entry in entries:
        places = []
        for text in (entry.name, entry.path):
            places.append(start + len(strings))
            strings += os.fsencode(text) + b"\0"
        table += _ENTRY.pack(entry.flags, *places, 0)
    order = _LITTLE if struct.pack("=H", 1)[0] else _BIG
    return _HEAD.pack(_NEW, len(entries), len(strings), order, 0) + bytes(table + strings)


def kept(entries: tuple[Entry, ...], paths: Container[str]) -> tuple[Entry, ...]:
    """Return the entries for what is at one of these paths."""
    return tuple(entry for entry in entries if entry.path in paths)


def _entries(data: bytes) -> tuple[Entry, ...]:
    start = 0
    if data.startswith(_OLD):
        old = struct.unpack_from("=I", data, len(_OLD))[0]
        start = -(-(_OLD_HEAD_BYTES + old * _OLD_ENTRY_BYTES) // 8) * 8
    if data[start : start + len(_NEW)] != _NEW:
        return ()
    count = _HEAD.unpack_from(data, start)[1]
    if count > _MAX_ENTRIES:
        return ()
    found = []
    for number in range(count):
        flags, name, path, hwcap = _ENTRY.unpack_from(
            data, start + _HEAD.size + number * _ENTRY.size
        )
        if not hwcap:
            found.append(Entry(flags, _text(data, start + name), _text(data, start + path)))
    return tuple(found)


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + _MAX_TEXT_BYTES)
    return os.fsdecode(data[at:end]) if end >= 0 else ""
