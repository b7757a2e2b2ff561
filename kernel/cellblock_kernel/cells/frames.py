"""The frames a cell's runner sends, from untrusted bytes to events.

The format is in the docstring of ``guest/runner.py``. Whatever runs in the container can write
frames, so that lengths are checked before anything is kept, headers are small JSON objects of
known shape, and nothing is unpickled, evaluated or imported. Unknown kinds are ignored.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .events import Clear, Display, Error, Event, InputRequest, Result, Stream

CELL_NAME = "<cell>"
_CODEC = Path(__file__).parent.parent / "guest" / "codec.py"
_LENGTHS = struct.Struct("!II")
_MAX_HEADER_BYTES = 1 << 16
_MAX_PARTS = 64
_MAX_UNSHOWN = 10_000
_MAX_NAME = 200
_MAX_EVALUE = 4096
_MIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+;= -]*")


class FrameError(ValueError):
    """Bytes that are no frame, or a frame above its cap; nothing behind them can be read."""


@dataclass(frozen=True)
class Hello:
    """The runner's first frame: it runs, under this version of Python."""

    protocol: int
    python: str


def encode_cell(
    source: str,
    given: Mapping[str, bytes] | None = None,
    wanted: Sequence[str] = (),
    *,
    name: str = CELL_NAME,
    number: int = 1,
) -> bytes:
    """Return the frames that hand a cell to the runner.

    ``given`` are variables as the codec has them, ``wanted`` the names of those to be sent back.
    ``name`` stands in tracebacks, ``number`` in the frame that ends a cell which is served.
    """
    frames: list[bytes] = []
    if given or wanted:
        frames += _frame({"kind": "codec"}, _CODEC.read_bytes())
    for variable, data in (given or {}).items():
        frames += _frame({"kind": "variable", "name": variable}, data)
    cell = source.encode("utf-8", "backslashreplace")
    header = {"kind": "cell", "name": name, "number": number, "out": list(wanted)}
    frames += _frame(header, cell)
    return b"".join(frames)


def encode_answer(number: int, text: str | None, *, unasked: bool = False) -> bytes:
    """Return the frame that answers an input request; None is the end of input."""
    kind = "unasked" if unasked else "end" if text is None else "answer"
    payload = (text or "").encode("utf-8", "backslashreplace")
    return b"".join(_frame({"kind": kind, "id": number}, payload))


def _frame(header: Mapping[str, object], payload: bytes) -> tuple[bytes, bytes, bytes]:
    head = json.dumps(header).encode("ascii")
    return _LENGTHS.pack(len(head), len(payload)), head, payload


class FrameDecoder:
    """Turns the bytes of the channel into events.

    ``hello`` is the runner's greeting, once it came; ``ignored`` holds unknown kinds, at most
    a handful. ``variables`` are the ``wanted`` ones as they came, ``refusals`` what the runner
    said of those that cannot travel, ``variable_bytes`` how much of what was read they are.

    Of a served cell, ``number`` is which end to wait for: ``status`` is its exit status once that
    came, and what follows stays in ``buffer`` for the decoder of the next cell.
    """

    def __init__(
        self,
        max_frame_bytes: int,
        wanted: Sequence[str] = (),
        *,
        number: int | None = None,
        buffer: bytearray | None = None,
    ) -> None:
        self.hello: Hello | None = None
        self.status: int | None = None
        self.variables: dict[str, bytearray] = {}
        self.refusals: list[str] = []
        self.variable_bytes = 0
        self._sizes: dict[str, int] = {}
        self._wanted = frozenset(wanted)
        self.ignored: set[str] = set()
        self._max_frame_bytes = max_frame_bytes
        self._unshown = 0
        self._number = number
        self._buffer = bytearray() if buffer is None else buffer

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that ``data`` completes, to the last. Raises FrameError."""
        self._buffer += data
        start = 0
        while self.status is None and len(self._buffer) - start >= _LENGTHS.size:
            head, payload = _LENGTHS.unpack_from(self._buffer, start)
            if head > _MAX_HEADER_BYTES or payload > self._max_frame_bytes:
                raise FrameError(f"a frame of {head} + {payload} bytes is above the cap")
            body = start + _LENGTHS.size
            end = body + head + payload
            if len(self._buffer) < end:
                break
            event = self._decode(
                bytes(self._buffer[body : body + head]), bytes(self._buffer[body + head : end])
            )
            if event is not None:
                yield event
            else:
                self._unshown += 1
                if self._unshown > _MAX_UNSHOWN:
                    raise FrameError(f"more than {_MAX_UNSHOWN} frames show nothing")
            start = end
        del self._buffer[:start]

    def _decode(self, head: bytes, payload: bytes) -> Event | None:
        header = _header(head)
        kind = _text(header, "kind", _MAX_NAME)
        event_of = _EVENTS.get(kind)
        if event_of is not None:
            return event_of(header, payload)
        match kind:
            case "variable":
                self._take_variable(header, payload)
            case "refused" if len(self.refusals) < _MAX_PARTS:
                self.refusals.append(
                    f"variable {_text(header, 'name', _MAX_NAME)!r} "
                    + _text(header, "reason", _MAX_EVALUE)
                )
            case "end" if self._number is not None:
                # That of an earlier cell, which only forgery can bring, ends nothing.
                if _count(header, "number") == self._number:
                    self.status = _count(header, "status")
            case "hello":
                self.hello = Hello(_count(header, "protocol"), _text(header, "python", _MAX_NAME))
            case _ if len(self.ignored) < _MAX_PARTS:
                self.ignored.add(kind)
        return None

    def missing(self) -> list[str]:
        """Return the names of the wanted variables that did not come whole."""
        return sorted(
            name
            for name in self._wanted
            if name not in self._sizes or len(self.variables[name]) != self._sizes[name]
        )

    def _take_variable(self, header: Mapping[str, Any], payload: bytes) -> None:
        name, size = _text(header, "name", _MAX_NAME), header.get("size")
        if name not in self._wanted or type(size) is not int or not payload:
            raise FrameError("a variable that was not asked for")
        data = self.variables.setdefault(name, bytearray())
        if self._sizes.setdefault(name, size) != size or len(data) + len(payload) > size:
            raise FrameError("a variable is longer than it says")
        data += payload
        self.variable_bytes += len(payload)
        self._unshown -= 1


def _header(head: bytes) -> dict[str, Any]:
    try:
        header = json.loads(head, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame's header is not JSON") from error
    if not isinstance(header, dict):
        raise FrameError("a frame's header is not an object")
    return header


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _text(header: Mapping[str, Any], key: str, length: int) -> str:
    value = header.get(key)
    if not isinstance(value, str):
        raise FrameError(f"a frame's {key} is not text")
    return _utf8(value[:length].encode("utf-8", "replace"))


def _count(header: Mapping[str, Any], key: str) -> int:
    value = header.get(key)
    if type(value) is not int or not 0 <= value < 2**32:
        raise FrameError(f"a frame's {key} is not a count")
    return value


def _utf8(payload: bytes) -> str:
    return payload.decode("utf-8", "replace")


def _stream(header: Mapping[str, Any], payload: bytes) -> Stream:
    match header.get("name"):
        case "stdout":
            return Stream("stdout", _utf8(payload))
        case "stderr":
            return Stream("stderr", _utf8(payload))
    raise FrameError("a frame's stream is neither stdout nor stderr")


def _display(header: Mapping[str, Any], payload: bytes) -> Display:
    name = _text(header, "display_id", _MAX_NAME) if "display_id" in header else None
    update = header.get("update") is True and name is not None
    return Display(_bundle(header, payload), _metadata(header), name, update)


def _result(header: Mapping[str, Any], payload: bytes) -> Result:
    return Result(_bundle(header, payload), _metadata(header))


def _error(header: Mapping[str, Any], payload: bytes) -> Error:
    ename, evalue = _text(header, "ename", _MAX_NAME), _text(header, "evalue", _MAX_EVALUE)
    return Error(ename, evalue, _utf8(payload))


def _clear(header: Mapping[str, Any], _payload: bytes) -> Clear:
    return Clear(header.get("wait") is True)


def _input(header: Mapping[str, Any], payload: bytes) -> InputRequest:
    secret = header.get("secret") is True
    return InputRequest(_count(header, "id"), _utf8(payload[:_MAX_EVALUE]), secret)


def _metadata(header: Mapping[str, Any]) -> Mapping[str, object]:
    metadata = header.get("metadata", {})
    if not isinstance(metadata, dict):
        raise FrameError("a frame's metadata is not an object")
    return metadata


def _bundle(header: Mapping[str, Any], payload: bytes) -> dict[str, str | bytes]:
    parts = header.get("parts")
    if not isinstance(parts, list) or len(parts) > _MAX_PARTS:
        raise FrameError("a frame's parts are not a short list")
    bundle: dict[str, str | bytes] = {}
    start = 0
    for part in parts:
        if not isinstance(part, dict):
            raise FrameError("a frame's part is not an object")
        mime = _text(part, "type", _MAX_NAME)
        if not _MIME.fullmatch(mime):
            raise FrameError("a frame's part has no MIME type")
        raw = payload[start : start + _count(part, "size")]
        start += part["size"]
        bundle[mime] = raw if part.get("binary") is True else _utf8(raw)
    if start != len(payload):
        raise FrameError("a frame's parts are not what it holds")
    return bundle


_EVENTS: Mapping[str, Callable[[Mapping[str, Any], bytes], Event]] = {
    "stream": _stream,
    "display": _display,
    "result": _result,
    "error": _error,
    "clear": _clear,
    "input": _input,
}
