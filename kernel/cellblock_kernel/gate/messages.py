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

import zmq

DELIMITER = b"<IDS|MSG>"
_PARTS = 4  # header, parent header, metadata, content
_VERSION = "5.4"

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
    for number, frame in enumerate(frames):
        if frame.buffer == DELIMITER:
            return number if len(frames) >= number + 2 + _PARTS else None
    return None


def resign(frames: Frames, believed: Signer, signer: Signer) -> Frames | None:
    """Return the message with the other side's signature; None if its own is not believed."""
    at = find_delimiter(frames)
    if at is None:
        return None
    parts = [frame.buffer for frame in frames[at + 2 : at + 2 + _PARTS]]
    if not believed.verifies(frames[at + 1].bytes, parts):
        return None
    return [*frames[: at + 1], zmq.Frame(signer.sign(parts)), *frames[at + 2 :]]


def welcome(topic: bytes, signer: Signer) -> list[bytes]:
    """Return an ``iopub_welcome`` for a new subscription (JEP 65)."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "iopub_welcome",
        "username": "kernel",
        "session": uuid.uuid4().hex,
        "date": datetime.now(UTC).isoformat(),
        "version": _VERSION,
    }
    content = {"subscription": topic.decode(errors="replace")}
    parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
    return [topic, DELIMITER, signer.sign(parts), *parts]
