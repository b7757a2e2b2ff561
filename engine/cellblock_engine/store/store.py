"""The store: wires its parts together and owns its locks; does no work itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .. import ids
from ..layout import Layout
from ..log import Log
from .blobs import Blobs
from .collector import Collector
from .derivations import Derivations
from .formats import make_home
from .images import Images
from .layers import Layers
from .locks import Kind, locked
from .staging import Staging
from .unpacking import Caps

_WAIT_S = 30.0
_log = Log(__name__)


class Store:
    """Blobs, layers and images below one directory. Opening it touches nothing on disk.

    Thread-safe, and safe between processes. Directories are made on first use, for their owner
    only: layers hold set-id files with their true owners.
    """

    def __init__(self, layout: Layout, *, caps: Caps | None = None) -> None:
        self._layout = layout
        self.staging = Staging(layout.staging)
        self.blobs = Blobs(layout, self.staging)
        self.layers = Layers(layout, self.staging, caps)
        self.derivations = Derivations(layout, self.staging)
        collector = Collector(layout, self.blobs, self.layers)
        self.images = Images(layout, self.staging, self.blobs, self.layers, collector)

    @contextmanager
    def referencing(self) -> Iterator[None]:
        """Keep everything in the store from being collected as garbage until the block ends.

        To be held from before the first blob, layer or image is looked for until what refers to
        it (a reference, a container's config) is written. Many may hold it. Raises Conflict
        when a garbage collection does not end.
        """
        make_home(self._layout)
        ids.note(self._layout, self.staging)
        with locked(self._layout.gc_lock, Kind.SHARED, timeout_s=_WAIT_S, what="the image store"):
            yield

    @contextmanager
    def spool(self) -> Iterator[int]:
        """Give a file for what is needed until the block ends, open for reading and writing."""
        make_home(self._layout)
        with self.staging.file() as (fd, _):
            yield fd

    def sweep(self) -> tuple[str, ...]:
        """Remove the unfinished work of processes that are gone, and beginnings of old pulls.

        Returns the names that the former had in staging.
        """
        self.blobs.partials.sweep()
        swept = self.staging.sweep()
        if swept:
            _log.info("swept what killed processes left: %s", ", ".join(swept))
        return swept
