"""What a pull or a push reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .oci.digest import Digest

Phase = Literal[
    "resolving",
    "waiting",
    "downloading",
    "extracting",
    "packing",
    "uploading",
    "mounted",
    "exists",
    "done",
]


@dataclass(frozen=True)
class TransferEvent:
    """One step of a transfer: of one layer, or of the whole (None).

    ``layer`` stands for the same layer in all events of one transfer. ``current_bytes`` counts
    towards ``total_bytes`` (compressed bytes, but while packing), which is None where it is not
    known. "mounted" is there now by the registry's own doing.
    """

    reference: str
    layer: Digest | None
    phase: Phase
    current_bytes: int = 0
    total_bytes: int | None = None


Progress = Callable[[TransferEvent], None]
"""Called from any thread, but never from two at once. What it raises ends the transfer."""
