"""What was executed in a notebook since its last commit, as its kernel's gate has recorded it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cellblock_engine import Provenance


class Executed:
    """For a commit to tell: ``provenance``. Whoever recorded it hears by ``say`` that one has."""

    def __init__(self, provenance: Provenance, say: Callable[[], None]) -> None:
        self.provenance = provenance
        self._say = say

    def told(self) -> None:
        """Begin anew: there is an image that tells of it."""
        self.provenance = replace(self.provenance, cells=(), older_cells=0)
        self._say()
