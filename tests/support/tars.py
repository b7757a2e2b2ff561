"""Writes tar archives byte by byte, with everything in them that a well-meaning library refuses.

Independent of the engine on purpose: what it reads must not come from its own writer.
"""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)


def octal(number: int, width: int) -> bytes:
    """Return a header field: octal digits and a NUL, or base 256 where they do not suffice."""
    if 0 <= number < 8 ** (width - 1):
        return f"{number:0{width - 1}o}\0".encode()
    return bytes((0x80 if number >= 0 else 0xFF,)) + number.to_bytes(
        width - 1, "big", signed=number < 0
    )


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    size: int = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_700_000_000,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    raw: dict[int, bytes] | None = None,
) -> bytes:
    """Return one header block; ``raw`` overwrites bytes at offsets before the sum is taken."""
    block = bytearray(BLOCK)

    def put(offset: int, data: bytes) -> None:
        block[offset : offset + len(data)] = data

    put(0, name[:100])
    put(100, octal(mode, 8) + octal(uid, 8) + octal(gid, 8))
    put(124, octal(size, 12) + octal(mtime, 12))
    put(156, kind)
    put(157, link[:100])
    put(257, magic)
    put(329, octal(device[0], 8) + octal(device[1], 8))
    put(345, prefix)
    for offset, data in (raw or {}).items():
        put(offset, data)
    put(148, b" " * 8)
    put(148, f"{sum(block):06o}\0 ".encode())
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Return ``data`` filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """Return one record of a pax header."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """Return a whole pax extension header."""
    data = b"".join(record(key, value) for key, value in records.items())
    return header(b"PaxHeaders/0", kind, size=len(data)) + padded(data)


def gnu_long(text: bytes, kind: bytes = b"L") -> bytes:
    """Return GNU's extension header for a long name (or, with kind K, a long link)."""
    return header(b"././@LongLink", kind, size=len(text) + 1) + padded(text + b"\0")


def file(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    """Return a regular file's header and data."""
    return header(name, b"0", size=len(data), **fields) + padded(data)  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, **fields: object) -> bytes:
    """Return a directory's header."""
    return header(name, b"5", mode=mode, **fields)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> bytes:
    """Return a symbolic link's header, and a pax header before it for a long target."""
    return (pax({b"linkpath": target}) if len(target) > 100 else b"") + header(
        name, b"2", link=target, mode=0o777
    )


def hard_link(name: bytes, target: bytes) -> bytes:
    """Return a hard link's header."""
    return header(name, b"1", link=target)


def archive(*members: bytes) -> bytes:
    """Return a whole archive."""
    return b"".join(members) + END
