r"""What a container has changed of its image, and how two images differ: a row for each path.

Nothing is mounted: the directories that an overlay would show are read (:mod:`.store.views`).
What is in them was made by others, so what is returned is for people and programs to look at, not
for opening: bytes of a path that are no UTF-8 are written as ``\xNN``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .assembly import Tree, mount_places
from .errors import StoreError
from .image import Image
from .store import Store
from .store.containers import ContainerConfig, upper
from .store.exclusion import Exclusion
from .store.views import Difference, Views
from .stored import require_readable

_MAX_CHANGES = 1_000_000
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


@dataclass(frozen=True)
class Change:
    """A path that was added (``A``), changed (``C``) or deleted (``D``), as in Docker's ``diff``.

    ``kind`` is file, directory, link, fifo, socket or device. ``size_bytes`` is that of a file
    and, where a directory was deleted, of all that was in it; what was in it has no rows.
    """

    change: Literal["A", "C", "D"]
    path: str
    kind: str
    size_bytes: int


def container_changes(
    config: ContainerConfig,
    trees: Iterable[Tree],
    directory: Path,
    *,
    since: Sequence[Path] | None = None,
) -> tuple[Change, ...]:
    """Return what the container in ``directory`` changed of its trees, by path.

    ``since`` are the layers of an image that was made of it, in the place of its own image's;
    what a commit leaves out by default is then left out too, but for what was deleted.
    What was made for mounts and is still empty is left out. Raises Unsupported where the writes
    are in memory, StoreError for too many changes, OSError.
    """
    require_readable(config, "it cannot be compared")
    places, habitual = mount_places(config), Exclusion(())
    found: list[tuple[bytes, Difference]] = []
    for number, tree in enumerate(trees):
        target = os.fsencode(tree.target.strip("/"))
        prefix = target + b"/" if target else b""
        without = {place[len(prefix) :] for place in places if place.startswith(prefix)}
        with ExitStack() as held:
            views = Views(held)
            before = views.root(tree.lowers if since is None else since)
            after = views.root((*tree.lowers, upper(directory, number) / "fs"))
            rows: Iterable[Difference] = views.differences(before, after, without=without)
            if since is not None:
                rows = (row for row in rows if row.sign == "D" or not habitual(prefix + row.path))
            found += _bounded((prefix + row.path, row) for row in rows)
    return _changes(found)


def image_changes(store: Store, one: Image, other: Image) -> tuple[Change, ...]:
    """Return what is to be changed in the image ``one`` to get ``other``, by path.

    To be called within :meth:`Store.referencing`. Raises StoreError for too many changes.
    """
    with ExitStack() as held:
        views = Views(held)
        roots = [views.root(store.layers.chain(image.layers)) for image in (one, other)]
        return _changes(_bounded((row.path, row) for row in views.differences(*roots)))


def _bounded(rows: Iterable[tuple[bytes, Difference]]) -> Iterator[tuple[bytes, Difference]]:
    for number, row in enumerate(rows):
        if number >= _MAX_CHANGES:
            raise StoreError(f"more than {_MAX_CHANGES} paths differ: too many for a table")
        yield row


def _changes(rows: Iterable[tuple[bytes, Difference]]) -> tuple[Change, ...]:
    """Return the rows in order, and a changed directory above each, as Docker has them."""
    known: dict[bytes, Change] = {}
    for path, row in rows:
        kind = _KINDS[stat.S_IFMT(row.status.st_mode)]
        known[path] = Change(row.sign, _text(path), kind, row.size_bytes)
    for path in tuple(known):
        above = path.rpartition(b"/")[0]
        while above and above not in known:
            known[above] = Change("C", _text(above), "directory", 0)
            above = above.rpartition(b"/")[0]
    return tuple(known[path] for path in sorted(known, key=lambda path: path.split(b"/")))


def _text(path: bytes) -> str:
    return "/" + path.decode(errors="backslashreplace")
