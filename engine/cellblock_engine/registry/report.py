"""Progress events of one pull or push, one at a time and not too many."""

from __future__ import annotations

import threading
import time

from ..oci.digest import Digest
from ..oci.manifest import Descriptor
from ..oci.reference import Reference
from ..progress import Phase, Progress, TransferEvent

_INTERVAL_S = 0.05


class Report:
    """Tells a listener how far a transfer is; safe to call from several threads.

    Within one phase of one layer events come at most every 50 ms. What the listener raises goes
    to the thread that reported, and ends the transfer there.
    """

    def __init__(self, reference: Reference, progress: Progress | None) -> None:
        self._reference, self._progress = str(reference), progress
        self._lock = threading.Lock()
        self._last: dict[Digest | None, tuple[Phase, float]] = {}

    def whole(self, phase: Phase, current_bytes: int = 0, total_bytes: int | None = None) -> None:
        """Report on the whole."""
        self._send(None, phase, current_bytes, total_bytes)

    def layer(
        self,
        descriptor: Descriptor,
        phase: Phase,
        current_bytes: int = 0,
        *,
        name: Digest | None = None,
    ) -> None:
        """Report on one layer, in bytes of its blob, by whose digest it goes without a ``name``."""
        self._send(name or descriptor.digest, phase, current_bytes, descriptor.size)

    def _send(self, layer: Digest | None, phase: Phase, current: int, total: int | None) -> None:
        if self._progress is None:
            return
        with self._lock:
            now = time.monotonic()
            last_phase, last_time = self._last.get(layer, (None, 0.0))
            if phase == last_phase and now - last_time < _INTERVAL_S and current != total:
                return
            self._last[layer] = (phase, now)
            self._progress(TransferEvent(self._reference, layer, phase, current, total))
