"""The steps in which an image was made, as its config tells them, beside the layers they made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from .oci.config import HistoryEntry, ImageDocument
from .oci.digest import Digest
from .oci.provenance import Provenance, read_provenance
from .store import Store

_UNTOLD = HistoryEntry(None, "", "", "", empty_layer=False)


@dataclass(frozen=True)
class HistoryRow:
    """A step of an image's making; the words are those of whoever made it.

    ``diffid`` is the layer that it added, None if it changed only the config. ``size_bytes`` sums
    up the layer's files, unpacked; ``files`` counts the entries of its archive, directories and
    marks of removal included. ``cells`` and ``packages`` say in short what its provenance tells of
    notebook cells that were executed and of packages that changed, None where nothing is known.
    """

    created: datetime | None
    created_by: str
    comment: str
    author: str
    size_bytes: int
    diffid: Digest | None
    files: int | None
    cells: str | None = None
    packages: str | None = None


def history(store: Store, document: ImageDocument) -> tuple[HistoryRow, ...]:
    """Return the steps of the image, the newest first; a layer that none tells of has a row too.

    Raises StoreError where a layer is missing.
    """
    return tuple(_rows(store, document))[::-1]


def _rows(store: Store, document: ImageDocument) -> Iterator[HistoryRow]:
    layers = iter(document.diff_ids)
    for step, known in zip(document.history, read_provenance(document), strict=True):
        yield _row(store, step, None if step.empty_layer else next(layers, None), known)
    for layer in layers:
        yield _row(store, _UNTOLD, layer, None)


def _row(
    store: Store, step: HistoryEntry, layer: Digest | None, known: Provenance | None
) -> HistoryRow:
    record = store.layers.record(layer) if layer is not None else None
    return HistoryRow(
        created=step.created,
        created_by=step.created_by,
        comment=step.comment,
        author=step.author,
        size_bytes=record.size_bytes if record else 0,
        diffid=layer,
        files=record.entries if record else None,
        cells=known.cells_in_short if known else None,
        packages=known.packages_in_short if known else None,
    )
