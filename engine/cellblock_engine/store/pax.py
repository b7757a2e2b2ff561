"""The headers of a tar archive's entries, as they are written: ustar, and pax where that is short.

The reverse of :func:`.tar.entries`, for entries of a file system's making (POSIX.1-2017, "pax
Interchange Format"; extended attributes as ``SCHILY.xattr``, as all image tools write them). The
same entry gives the same bytes.
"""

from __future__ import annotations

from functools import lru_cache

from ..errors import InvalidLayer
from .tar import BLOCK, XATTR, Entry

END = bytes(2 * BLOCK)
"""What an archive ends with."""

_NAME_BYTES = 100
_ID_DIGITS, _SIZE_DIGITS = 7, 11
_NS = 10**9
_MAGIC = b"ustar\x0000" + bytes(64)
_CONSTANT_SUM = sum(_MAGIC) + sum(b" " * 8)
_EXTENDED = Entry(b"././@PaxHeader", b"x", 0, 0, 0, 0, 0, b"", (0, 0), {})


def encode(entry: Entry) -> bytes:
    """Return the header blocks of ``entry``, after which its data comes, padded to blocks.

    Raises InvalidLayer for an extended attribute that a pax record cannot name.
    """
    records = _records(entry)
    if not records:
        return _block(entry)
    data = b"".join(_record(key, value) for key, value in sorted(records.items()))
    return _extended(len(data)) + data + padding(len(data)) + _block(entry)


def padding(size: int) -> bytes:
    """Return the zeros that fill up ``size`` bytes to whole blocks."""
    return bytes(-size % BLOCK)


def _records(entry: Entry) -> dict[bytes, bytes]:
    """Return what does not fit into a ustar header."""
    records = {}
    for key, text in ((b"path", entry.name), (b"linkpath", entry.link)):
        if len(text) > _NAME_BYTES:
            records[key] = text
    for key, number, digits in (
        (b"size", entry.size, _SIZE_DIGITS),
        (b"uid", entry.uid, _ID_DIGITS),
        (b"gid", entry.gid, _ID_DIGITS),
    ):
        if number >= 8**digits:
            records[key] = b"%d" % number
    if entry.mtime_ns % _NS or not 0 <= entry.mtime_ns < 8**_SIZE_DIGITS * _NS:
        records[b"mtime"] = _time(entry.mtime_ns)
    for key, value in entry.xattrs.items():
        if b"=" in key:
            raise InvalidLayer(
                f"the extended attribute {key[:60]!r} of {entry.name[-80:]!r} cannot be put in a "
                "layer, as its name has a '=': remove it"
            )
        records[XATTR + key] = value
    return records


def _record(key: bytes, value: bytes) -> bytes:
    """Return ``length key=value``, where the length counts its own digits too."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)


def _time(ns: int) -> bytes:
    """Return decimal seconds, exactly."""
    whole, fraction = divmod(abs(ns), _NS)
    text = f"{whole}.{fraction:09}".rstrip("0").rstrip(".")
    return (b"-" if ns < 0 else b"") + text.encode()


@lru_cache(maxsize=1024)
def _extended(size: int) -> bytes:
    """Return the header of pax records of ``size`` bytes."""
    return _block(_EXTENDED._replace(size=size))


def _block(entry: Entry) -> bytes:
    """Return the ustar header; what does not fit is cut off, or 0."""
    name, link = entry.name[:_NAME_BYTES], entry.link[:_NAME_BYTES]
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        entry.mode,
        entry.uid if entry.uid < 8**_ID_DIGITS else 0,
        entry.gid if entry.gid < 8**_ID_DIGITS else 0,
        entry.size if entry.size < 8**_SIZE_DIGITS else 0,
        mtime if 0 <= (mtime := entry.mtime_ns // _NS) < 8**_SIZE_DIGITS else 0,
    )
    devices = b"%07o\0%07o\0" % entry.device
    # The sum counts the check sum's own field as blanks, and zeros do not count.
    total = sum(name) + sum(numbers) + sum(entry.kind) + sum(link) + sum(devices) + _CONSTANT_SUM
    return b"%b%b%b%06o\0 %b%b%b%b%b%b" % (
        name,
        bytes(_NAME_BYTES - len(name)),
        numbers,
        total,
        entry.kind,
        link,
        bytes(_NAME_BYTES - len(link)),
        _MAGIC,
        devices,
        bytes(167),
    )
