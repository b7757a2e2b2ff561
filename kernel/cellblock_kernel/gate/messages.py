"""Messages as they travel: identities, a delimiter, a signature, four JSON parts, buffers.

See "The Wire Protocol" in the documentation of jupyter_client. Only the signature is looked at
here; what a message says is parsed where a rule needs it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import zmq

DELIMITER = b"<IDS|MSG>"
PARTS = 4  # header, parent header, metadata, content
_VERSION = "5.4"
_MOST_IDENTITIES = 16  # a message of a million frames is not searched
_MOST_HEADER_BYTES = 1 << 16  # parsed, a hostile one takes twenty times its size

Frames = list[zmq.Frame]


class Signer:
    """Signs and verifies with one key; an empty key signs nothing and believes everything."""

    def __init__(self, key: bytes) -> None:
        self._base = hmac.new(key, digestmod=hashlib.sha256) if key else None

    def sign(self, parts: Sequence[bytes | memoryview]) -> bytes:
        """Return the signature of the four parts, in hexadecimal digits."""
        if self._base is None:
            return b""
        digest = self._base.copy()
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode()

    def verifies(self, signature: bytes, parts: Sequence[bytes | memoryview]) -> bool:
        """Return whether the signature is that of the four parts."""
        return self._base is None or hmac.compare_digest(self.sign(parts), signature)


def find_delimiter(frames: Frames) -> int | None:
    """Return where the delimiter of a whole message is, None where it is none."""
    for number, frame in enumerate(frames[: _MOST_IDENTITIES + 1]):
        if frame.buffer == DELIMITER:
            return number if len(frames) >= number + 2 + PARTS else None
    return None


def resign(frames: Frames, believed: Signer, signer: Signer) -> Frames | None:
    """Return the message with the other side's signature; None if its own is not believed."""
    at = find_delimiter(frames)
    if at is None:
        return None
    parts = [frame.buffer for frame in frames[at + 2 : at + 2 + PARTS]]
    if not believed.verifies(frames[at + 1].bytes, parts):
        return None
    return [*frames[: at + 1], zmq.Frame(signer.sign(parts)), *frames[at + 2 :]]


def compose(topic: Frames, parts: Sequence[bytes | memoryview], signer: Signer) -> Frames:
    """Return a message of four parts, signed."""
    framed = [zmq.Frame(part) for part in (DELIMITER, signer.sign(parts), *parts)]
    return [*topic, *framed]


def welcome(topic: bytes, signer: Signer) -> Frames:
    """Return an ``iopub_welcome`` for a new subscription (JEP 65).

    As from a kernel of its own, one to everything bears no topic.
    """
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "iopub_welcome",
        "username": "kernel",
        "session": uuid.uuid4().hex,
        "date": datetime.now(UTC).isoformat(),
        "version": _VERSION,
    }
    content = {"subscription": topic.decode()}
    parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
    return compose([zmq.Frame(topic)] if topic else [], parts, signer)


def message_type(header: zmq.Frame) -> str:
    """Return a message's type, nothing where its header is not what a header should be."""
    if len(header) > _MOST_HEADER_BYTES:
        return ""
    kind = parse(header).get("msg_type")
    return kind if isinstance(kind, str) else ""


def parse(part: zmq.Frame) -> dict[str, Any]:
    """Return what a part says, nothing where it is not what a part should be."""
    try:
        plain = json.loads(part.bytes)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}
