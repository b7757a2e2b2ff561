"""Messages as they travel: identities, a delimiter, a signature, four JSON parts, buffers.

See "The Wire Protocol" in the documentation of jupyter_client. The signature is looked at first;
what a message says is parsed where a rule asks for it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import zmq

DELIMITER = b"<IDS|MSG>"
PARTS = 4  # header, parent header, metadata, content
_VERSION = "5.4"
_MOST_IDENTITIES = 16  # a message of a million frames is not searched
_MOST_HEADER_BYTES = 1 << 16  # parsed, a hostile one takes twenty times its size

Frames = list[zmq.Frame]
FRAME_BYTES = 256
"""What a frame costs to keep beyond its content."""
_DELIMITER = zmq.Frame(DELIMITER)


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


class Message:
    """One message whose signature was believed; what it says is parsed when it is asked for.

    The parts are mappings, empty where what came is no JSON object or, but for the content, larger
    than a header should be. A message is never changed: :meth:`but` returns another.
    """

    __slots__ = ("_parsed", "_parts", "buffers", "identities")

    def __init__(
        self, identities: Frames, parts: Sequence[zmq.Frame], buffers: Frames | None = None
    ) -> None:
        self.identities, self.buffers = identities, buffers or []
        self._parts = tuple(parts)
        self._parsed: list[Mapping[str, Any] | None] = [None] * PARTS

    @classmethod
    def read(cls, frames: Frames, signer: Signer) -> Self | None:
        """Return the message in ``frames``; None for what is none, or bears another signature."""
        at = find_delimiter(frames)
        if at is None:
            return None
        parts = frames[at + 2 : at + 2 + PARTS]
        if not signer.verifies(frames[at + 1].bytes, [part.buffer for part in parts]):
            return None
        return cls(frames[:at], parts, frames[at + 2 + PARTS :])

    @classmethod
    def of(
        cls,
        kind: str,
        content: Mapping[str, Any],
        *,
        parent: Mapping[str, Any] | None = None,
        identities: Frames | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a new message, as from a kernel."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "username": "kernel",
            "session": (parent or {}).get("session") or uuid.uuid4().hex,
            "date": datetime.now(UTC).isoformat(),
            "version": _VERSION,
        }
        parts = (header, parent or {}, metadata or {}, content)
        return cls(identities or [], [_dumped(part) for part in parts])

    @property
    def header(self) -> Mapping[str, Any]:
        """Who sent it, when, as what."""
        return self._part(0)

    @property
    def parent(self) -> Mapping[str, Any]:
        """The header of the request that it belongs to."""
        return self._part(1)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What is said about it."""
        return self._part(2)

    @property
    def content(self) -> Mapping[str, Any]:
        """What it says."""
        return self._part(3)

    @property
    def unparsed(self) -> zmq.Frame:
        """Its content as it came."""
        return self._parts[PARTS - 1]

    @property
    def kind(self) -> str:
        """Its ``msg_type``; nothing where it has none."""
        return _text(self.header, "msg_type")

    @property
    def id(self) -> str:
        """Its ``msg_id``; nothing where it has none."""
        return _text(self.header, "msg_id")

    @property
    def parent_id(self) -> str:
        """The ``msg_id`` of the request that it belongs to; nothing where it names none."""
        return _text(self.parent, "msg_id")

    @property
    def subshell(self) -> str | None:
        """The id of the subshell that it is for; None for the main shell."""
        return _text(self.header, "subshell_id") or None

    @property
    def size(self) -> int:
        """About how many bytes it costs to keep."""
        frames = (*self.identities, *self._parts, *self.buffers)
        return sum(len(frame) + FRAME_BYTES for frame in frames)

    def but(
        self,
        *,
        header: Mapping[str, Any] | None = None,
        parent: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        content: Mapping[str, Any] | None = None,
        buffers: Frames | None = None,
    ) -> Message:
        """Return one that says this instead in the parts that are given."""
        parts = [
            old if new is None else _dumped(new)
            for old, new in zip(self._parts, (header, parent, metadata, content), strict=True)
        ]
        return Message(self.identities, parts, self.buffers if buffers is None else buffers)

    def frames(self, signer: Signer) -> Frames:
        """Return it as it travels to whoever believes ``signer``."""
        parts = [part.buffer for part in self._parts]
        signature = zmq.Frame(signer.sign(parts))
        return [*self.identities, _DELIMITER, signature, *self._parts, *self.buffers]

    def _part(self, number: int) -> Mapping[str, Any]:
        known = self._parsed[number]
        if known is None:
            part = self._parts[number]
            is_content = number == PARTS - 1
            known = parse(part) if is_content or len(part) <= _MOST_HEADER_BYTES else {}
            self._parsed[number] = known
        return known


def compose(topic: Frames, parts: Sequence[bytes | memoryview], signer: Signer) -> Frames:
    """Return a message of four parts, signed."""
    framed = [zmq.Frame(part) for part in (DELIMITER, signer.sign(parts), *parts)]
    return [*topic, *framed]


def welcome(topic: bytes) -> Message:
    """Return an ``iopub_welcome`` for a new subscription (JEP 65).

    As from a kernel of its own, one to everything bears no topic.
    """
    content = {"subscription": topic.decode()}
    identities = [zmq.Frame(topic)] if topic else []
    return Message.of("iopub_welcome", content, identities=identities)


def topic(name: str) -> Frames:
    """Return the identities of what the gate itself publishes."""
    return [zmq.Frame(name.encode())]


def message_type(header: zmq.Frame) -> str:
    """Return a message's type, nothing where its header is not what a header should be."""
    if len(header) > _MOST_HEADER_BYTES:
        return ""
    return _text(parse(header), "msg_type")


def parse(part: zmq.Frame) -> dict[str, Any]:
    """Return what a part says, nothing where it is not what a part should be."""
    try:
        plain = json.loads(part.bytes)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _text(mapping: Mapping[str, Any], name: str) -> str:
    value = mapping.get(name)
    return value if isinstance(value, str) else ""


def _dumped(part: Mapping[str, Any]) -> zmq.Frame:
    """Return a part, an empty one for what could just be parsed and is nested too deeply here."""
    try:
        return zmq.Frame(json.dumps(part).encode())
    except RecursionError:
        return zmq.Frame(b"{}")
