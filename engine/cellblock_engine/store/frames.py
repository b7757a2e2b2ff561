"""What goes between a caller and its process inside: one kind, one length, so many bytes."""

from __future__ import annotations

import struct
from typing import IO

RESULT, ERROR, PIECE, TOLD = b"R", b"E", b"P", b"T"
_HEAD = struct.Struct("=cQ")


def write_frame(file: IO[bytes], kind: bytes, content: bytes) -> None:
    """Write one; it is flushed. Raises OSError."""
    file.write(_HEAD.pack(kind, len(content)))
    file.write(content)
    file.flush()


def read_frame(file: IO[bytes]) -> tuple[bytes, bytes] | None:
    """Return the kind and content of the next; None at the end, also of one cut off."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    kind, size = _HEAD.unpack(head)
    content = file.read(size)
    return (kind, content) if len(content) == size else None
