"""What a pull reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .oci.digest import Digest

Phase = Literal["resolving", "waiting", "downloading", "extracting", "exists", "done"]


@dataclass(frozen=True)
class PullEvent:
    """One step of a pull: of the layer with this blob digest, or of the whole pull (None).

    ``current_bytes`` counts towards ``total_bytes`` (compressed bytes, both while downloading and
    while extracting); ``total_bytes`` is None where it is not known.
    """

    reference: str
    layer: Digest | None
    phase: Phase
    current_bytes: int = 0
    total_bytes: int | None = None


Progress = Callable[[PullEvent], None]
"""Called from any thread, but never from two at once. What it raises ends the pull."""
