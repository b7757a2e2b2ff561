"""The files of a container as one flat archive, as it shows them: nothing of its image is left.

Nothing is mounted. What is attached to the container is not in it, only the places for that. A
container that runs goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from ..assembly import Tree
from ..container import Container
from ..errors import Unsupported
from ..store import Store
from ..store.containers import ContainerConfig, upper
from ..store.flattening import flattened
from ..store.pack import archive
from ..store.views import Views


def refuse_unexportable(config: ContainerConfig) -> None:
    """Raise Unsupported for a container whose files are not in the store."""
    if config.image_id is None:
        raise Unsupported(
            f"container {config.name} cannot be exported: its files are this machine's own; use a "
            "container of a pulled image"
        )
    if config.storage_bytes is not None:
        raise Unsupported(
            f"container {config.name} cannot be exported: what it writes is in memory; use a "
            "container without --storage-limit"
        )


def export(store: Store, container: Container, trees: Sequence[Tree]) -> Iterator[bytes]:
    """Yield an archive of what a container with these trees shows, in pieces.

    Raises Conflict for one that is started meanwhile, or whose file changes while it is read,
    ContainerNotFound where it is removed meanwhile, StoreError, InvalidLayer, OSError.
    """
    with ExitStack() as held:
        held.enter_context(store.referencing())
        if not container.runs():
            held.enter_context(container.at_rest())
        views = Views(held)
        (tree,) = trees
        root = views.root((*tree.lowers, upper(container.directory, 0) / "fs"))
        yield from archive(flattened(views, root))
