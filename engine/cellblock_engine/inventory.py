"""The containers of one store, beside its images: looked at, made images of, counted and pruned.

None is started here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from . import assembly
from .container import Container
from .errors import ContainerNotFound
from .image import RemovedImage, parse_name
from .inspection import ContainerInfo, describe
from .library import Library
from .store.containers import ContainerConfig, Containers

if TYPE_CHECKING:
    from .commit import Commit
    from .comparison import Change
    from .imagerequest import CommitRequest
    from .oci.digest import Digest
    from .packages.package import Package
    from .pruning import DiskUsage, Pruned
    from .store.images import Kept


class Inventory(Library):
    """What an engine does with containers that are there, whether they run or not."""

    @cached_property
    def _containers(self) -> Containers:
        return Containers(self._layout, self._store.inside)  # and with it the store's format

    def containers(self) -> tuple[ContainerInfo, ...]:
        """Return all containers, running or not, the newest first."""
        found = (
            describe(self._layout, config, self._containers.directory(config.id))
            for config in self._containers.list()
        )
        return tuple(sorted(found, key=lambda info: info.created_at, reverse=True))

    def container(self, name: str) -> Container:
        """Return the container of this name, id or unique start of an id.

        Raises ContainerNotFound, Conflict.
        """
        return self._held(self._containers.find(name))

    def diff(self, name: str, *, since_commit: bool = False) -> tuple[Change, ...]:
        """Return what a container added, changed and deleted of its image so far, by path.

        With ``since_commit`` of the last image that was made of it, if that is in the store, and
        without what a commit leaves out by default. Raises ContainerNotFound, Conflict,
        Unsupported for one whose writes are in memory (``storage_bytes``), StoreError, OSError.
        """
        from .comparison import container_changes  # noqa: PLC0415 - asked for seldom

        with self._files_of(name) as (config, trees, directory):
            since = self._committed_layers(config) if since_commit else None
            inside = self._store.inside
            return inside.run(container_changes, config, trees, directory, since=since)

    def container_packages(self, name: str) -> tuple[Package, ...]:
        """Return the packages that are installed in a container now, running or not.

        Raises ContainerNotFound, Conflict, Unsupported for one whose writes are in memory
        (``storage_bytes``), StoreError, OSError.
        """
        from .packages.inside import container_packages  # noqa: PLC0415 - asked for seldom

        with self._files_of(name) as (config, trees, directory):
            return self._store.inside.run(container_packages, config, trees, directory)

    def commit(
        self,
        name: str,
        reference: str | None = None,
        request: CommitRequest | None = None,
    ) -> Commit:
        """Make an image of a container, its files one layer more; return it.

        One that runs is paused while its files are looked at. Settings are those of the
        container's image. Without ``reference`` it is held by its digest, as :meth:`hold_image`
        does. Raises ContainerNotFound, Conflict where the container does not hold still,
        Unsupported for one of the host image, with a limit on storage, or that runs and cannot be
        paused, ImageNotFound where its image was removed, InvalidInput, StoreError and its kinds;
        then there is no image.
        """
        from .commit import commit  # noqa: PLC0415 - as seldom as a pull
        from .imagerequest import CommitRequest  # noqa: PLC0415 - as this
        from .store.room import telling_if_full  # noqa: PLC0415 - as does this

        target = parse_name(reference) if reference is not None else None
        config = self._containers.find(name)
        self._store.sweep()  # what a killed one left half done
        with telling_if_full(f"an image of container {config.name}"):
            return self._store.inside.run(
                commit,
                self._store,
                self._held(config),
                config,
                target,
                request or CommitRequest(),
            )

    def export(self, name: str, target: Path | BinaryIO) -> None:
        """Write the files that a container shows into one flat tar archive.

        What is attached to it (binds, /proc and the like) is not in it. One that runs goes on
        meanwhile. A file is there whole or not at all. Raises ContainerNotFound, Unsupported for
        one of the host image, or with a limit on storage, Conflict for a file that changes while
        it is read, InvalidInput, StoreError and its kinds, OSError for a stream.
        """
        from .archive.exporting import export  # noqa: PLC0415 - seldom used
        from .archive.target import write  # noqa: PLC0415 - as this
        from .stored import require_stored  # noqa: PLC0415 - as this

        config = self._containers.find(name)
        require_stored(config, "be exported")
        trees = assembly.find_trees(self._layout, self._store, config)
        work = self._store, self._held(config), trees
        write(self._store.inside.pieces(export, *work), target)

    def remove_image(self, name: str, *, force: bool = False) -> RemovedImage:
        """Remove a reference, and what nothing else needs of it.

        Raises ImageNotFound, and Conflict when a container that runs uses it, or any and not
        ``force``.
        """
        running = {str(info.image_id) for info in self.containers() if info.status == "running"}
        return self._store.images.remove(name, force=force, running=running)

    def disk_usage(self, *, keep: Collection[Digest] = ()) -> tuple[DiskUsage, ...]:
        """Return what images, containers, layers and blobs take on disk, and what could go.

        ``keep`` is as for :meth:`prune`. Raises StoreError, OSError.
        """
        from .pruning import disk_usage  # noqa: PLC0415 - asked for seldom

        return self._store.inside.run(disk_usage, self._layout, self._store, keep)

    def prune(
        self,
        *,
        containers: bool = True,
        images: Kept | None = "tagged",
        keep: Collection[Digest] = (),
        dry_run: bool = False,
    ) -> Pruned:
        """Remove containers that have ended and then images, or only tell; return what goes.

        Of images those with a tag stay (``"tagged"``) or only those that containers use
        (``"used"``), which stay in any case, as do those of the ids ``keep``; None leaves images
        alone. Containers that run, and those of notebook kernels, stay. Raises Conflict while
        the image store is in use, StoreError, OSError.
        """
        from .pruning import prune  # noqa: PLC0415 - asked for seldom

        return self._store.inside.run(
            prune,
            self._layout,
            self._store,
            partial(Container, self._layout, self._containers),
            containers=containers,
            images=images,
            keep=keep,
            dry_run=dry_run,
        )

    @contextmanager
    def _files_of(
        self, name: str
    ) -> Iterator[tuple[ContainerConfig, tuple[assembly.Tree, ...], Path]]:
        """Give a container, its trees and its directory.

        Raises ContainerNotFound, also where it is removed meanwhile: what was read may be less.
        """
        config = self._containers.find(name)
        directory = self._containers.directory(config.id)
        with self._store.referencing():
            trees = assembly.find_trees(self._layout, self._store, config)
            try:
                yield config, trees, directory
            except FileNotFoundError:
                if directory.exists():
                    raise
        if not directory.exists():
            raise ContainerNotFound(f"container {config.name} was removed meanwhile")

    def _committed_layers(self, config: ContainerConfig) -> tuple[Path, ...] | None:
        """Return the layers of the last image that was made of a container, None for none."""
        committed = self._held(config).inspect().committed
        if committed is None:
            return None
        return self._store.layers.chain(self._store.images.resolve(str(committed)).layers)

    def _held(self, config: ContainerConfig) -> Container:
        return Container(self._layout, self._containers, config)
