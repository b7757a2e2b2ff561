"""Variables of a notebook on their way into a cell's container, and back.

The safe forms are those of ``guest/codec.py``; here they are bounded, and refusals are worded.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import VariableRefused
from ..guest import codec
from ..outputs.text import one_line

_MAX_REASON = 300


def pack(values: Mapping[str, object], limit_bytes: int) -> dict[str, bytes]:
    """Return variables as bytes. Raises VariableRefused for one that has no safe form."""
    packed: dict[str, bytes] = {}
    for name, value in values.items():
        try:
            packed[name] = codec.dumps(value)
        except codec.CannotTravel as error:
            raise VariableRefused(
                f"variable {name!r} cannot travel into a container: {one_line(str(error), 300)}"
            ) from None
    total = sum(map(len, packed.values()))
    if total > limit_bytes:
        raise VariableRefused(
            f"the variables are {total >> 20} MiB, and at most {limit_bytes >> 20} MiB travel into "
            "a container: write large data to a file"
        )
    return packed


def unpack(values: Mapping[str, bytes | bytearray]) -> dict[str, object]:
    """Return variables that a container sent. Raises VariableRefused, and then there are none."""
    unpacked: dict[str, object] = {}
    for name, data in values.items():
        try:
            unpacked[name] = codec.loads(bytes(data))
        except (codec.Malformed, codec.CannotTravel) as error:
            raise refused([f"variable {name!r} arrived broken: {error}"]) from None
    return unpacked


def refused(reasons: list[str]) -> VariableRefused:
    """Return the error for what the runner said of variables."""
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return VariableRefused(one_line(reasons[0], _MAX_REASON) + more)
