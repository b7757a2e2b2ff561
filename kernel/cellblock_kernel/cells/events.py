"""What a running cell shows, in the order in which it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

StreamName = Literal["stdout", "stderr"]
Bundle: TypeAlias = Mapping[str, str | bytes]
_REPR_TEXT = 200


@dataclass(frozen=True)
class Stream:
    """Text written to standard output or error."""

    name: StreamName
    text: str


@dataclass(frozen=True)
class Display:
    """Something displayed: its representations by MIME type, text or bytes.

    Nothing in it is to be trusted; a surface shows the types that it can show safely. With a
    ``display_id`` it can be replaced by later displays that ``update`` it, of the same cell or of
    one in the same container.
    """

    bundle: Bundle
    metadata: Mapping[str, object] = field(default_factory=dict)
    display_id: str | None = None
    update: bool = False


@dataclass(frozen=True, repr=False)
class Result:
    """The value of the cell's last expression, as :class:`Display` has it."""

    bundle: Bundle
    metadata: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return a line: a notebook keeps this as ``_``, and megabytes may be behind it."""
        text = str(self.bundle.get("text/plain", ""))
        start = text if len(text) <= _REPR_TEXT else text[:_REPR_TEXT] + "..."
        return f"Result({start!r}: {', '.join(sorted(self.bundle))})"


@dataclass(frozen=True)
class Error:
    """The exception that ended the cell, with Python's own traceback text."""

    ename: str
    evalue: str
    traceback: str


@dataclass(frozen=True)
class Clear:
    """The outputs so far go away: at once, or when the next one comes (``wait``)."""

    wait: bool


@dataclass(frozen=True)
class InputRequest:
    """The cell asks for a line; a ``secret`` one is not echoed."""

    number: int
    prompt: str
    secret: bool


Event: TypeAlias = Stream | Display | Result | Error | Clear | InputRequest
