"""The files of a container as one flat archive, as it shows them: nothing of its image is left.

Nothing is mounted. What is attached to the container is not in it, only the places for that. A
container that runs goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from ..assembly import Tree
from ..container import Container
from ..store import Store
from ..store.containers import upper
from ..store.flattening import flattened
from ..store.pack import archive
from ..store.views import Views


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
