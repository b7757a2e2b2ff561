"""The store: wires its parts together and owns its locks; does no work itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .. import ids
from ..layout import Layout
from ..linux.idmaps import IdMaps
from ..log import Log
from .blobs import Blobs
from .collector import Collector
from .derivations import Derivations
from .formats import make_home
from .images import Images
from .inside import Inside
from .layers import Layers
from .locks import Kind, locked
from .staging import Staging
from .unpacking import Caps

_WAIT_S = 30.0
_log = Log(__name__)


class Store:
    """Blobs, layers and images below one directory. Opening it touches nothing on disk.

    Thread-safe, and safe between processes. Directories are made on first use, for their owner
    only: layers hold set-id files with their true owners. ``wants_single`` is asked, when it is
    made for an ordinary user, whether containers are to have one id. ``is_inside`` says that this
    process reaches files as their owners' root, as one does that it is sent to (:mod:`.inside`).
    """

    def __init__(
        self,
        layout: Layout,
        *,
        caps: Caps | None = None,
        wants_single: Callable[[], bool] = lambda: False,
        is_inside: bool = False,
    ) -> None:
        self.layout = layout
        self._wants_single, self._is_inside = wants_single, is_inside
        self._has_ids = False
        self._caps = caps
        self.inside = Inside(self._maps)
        self.staging = Staging(layout.staging, self.inside.remove)
        self.blobs = Blobs(layout, self.staging)
        self.layers = Layers(layout, self.staging, self.inside, caps)
        self.derivations = Derivations(layout, self.staging)
        collector = Collector(layout, self.blobs, self.layers)
        self.images = Images(layout, self.staging, self.blobs, self.layers, collector)

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Layout, Caps | None]]:
        """Return what it is for whom it is sent to."""
        return _inside, (self.layout, self._caps)

    @contextmanager
    def referencing(self) -> Iterator[None]:
        """Keep everything in the store from being collected as garbage until the block ends.

        To be held from before the first blob, layer or image is looked for until what refers to
        it (a reference, a container's config) is written. Many may hold it. Raises Conflict
        when a garbage collection does not end.
        """
        self._make_home()
        with locked(self.layout.gc_lock, Kind.SHARED, timeout_s=_WAIT_S, what="the image store"):
            yield

    @contextmanager
    def spool(self) -> Iterator[int]:
        """Give a file for what is needed until the block ends, open for reading and writing."""
        self._make_home()
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

    def _make_home(self) -> None:
        make_home(self.layout)
        if not (self._has_ids or self._is_inside or self.layout.ids.exists()):
            ids.note(self.layout, self.staging, single=self._wants_single())
        self._has_ids = True

    def _maps(self) -> IdMaps | None:
        if self._is_inside:
            return None
        noted = self._has_ids or self.layout.ids.exists()
        return ids.id_maps(self.layout, single=not noted and self._wants_single())


def _inside(layout: Layout, caps: Caps | None) -> Store:
    return Store(layout, caps=caps, is_inside=True)
