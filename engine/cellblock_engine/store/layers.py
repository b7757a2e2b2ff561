"""Unpacked layers, one directory for each diffID: ``<hex>/fs`` and what is known of it.

A layer is there complete or not at all, is never changed, and is shared by all images that have
it. Layers are keyed by diffID, not by their place in a chain, so they unpack in parallel and in
any order; what depends on the layers below is :mod:`.chains`' business.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidLayer, StoreError
from ..layout import Layout
from ..oci.digest import Digest
from ..oci.manifest import LAYER_TYPES
from ..private import make_private
from . import chains
from .chains import LayerRecord
from .inside import Inside
from .room import raise_if_full
from .staging import Staging, sync_directory
from .unpacking import Caps, Unpackers

if TYPE_CHECKING:
    from .copying import LayerCopy

_MAX_CACHED = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Layers:
    """The layers of a store. Thread-safe; several processes may work on one store."""

    def __init__(
        self, layout: Layout, staging: Staging, inside: Inside, caps: Caps | None = None
    ) -> None:
        self._layout = layout
        self._staging = staging
        self._inside = inside
        self._caps = caps or Caps()
        self._unpackers = Unpackers(inside.maps)
        self._sizes: dict[Digest, int] = {}  # many images share a layer, and none changes

    def has(self, diffid: Digest) -> bool:
        """Tell whether the layer is there, complete."""
        return self._directory(diffid).is_dir()

    def path(self, diffid: Digest) -> Path:
        """Return the directory that serves as overlayfs lower layer. Raises StoreError."""
        path = self._directory(diffid) / "fs"
        if not path.is_dir():
            raise _missing(diffid)
        return path

    def record(self, diffid: Digest) -> LayerRecord:
        """Return what is known of the layer. Raises StoreError."""
        try:
            known = json.loads((self._directory(diffid) / "layer.json").read_bytes())
        except FileNotFoundError:
            raise _missing(diffid) from None
        return LayerRecord(
            known["size_bytes"],
            known["entries"],
            tuple(known["implied"]),
            tuple(known["links"].items()),
            tuple(known.get("whiteouts", ())),  # layers of older stores do not say
            tuple(known.get("emptied", ())),
            known["opaque"],
        )

    def size_bytes(self, diffid: Digest) -> int:
        """Return the sum of the layer's file sizes, in bytes. Raises StoreError."""
        known = self._sizes.get(diffid)
        if known is None:
            known = self.record(diffid).size_bytes
            if len(self._sizes) >= _MAX_CACHED:
                self._sizes.clear()
            self._sizes[diffid] = known
        return known

    def warm(self) -> AbstractContextManager[None]:
        """Start an unpacker now and keep unpackers for all layers extracted in the block."""
        return self._unpackers.warm()

    def extract(
        self,
        blob: Path,
        media_type: str,
        diffid: Digest,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Unpack a layer's blob; nothing to do if the layer is there.

        ``progress`` is told the bytes of the blob read so far, in the calling thread. When two
        do the same layer at once, the first to end keeps its work. Raises InvalidLayer when the
        archive is refused or has another diffID, StoreFull, StoreError; nothing then stays.
        """
        if media_type not in LAYER_TYPES:  # said also of a layer that is there
            raise InvalidLayer(f"a layer of the type {media_type[:80]!r} is not supported")
        if self.has(diffid):
            return
        with self.unpacked(blob, media_type, diffid, progress) as staging:
            _publish(staging, self._directory(diffid))

    @contextmanager
    def unpacked(
        self,
        blob: Path,
        media_type: str,
        diffid: Digest,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Path]:
        """Give a directory with what a layer's blob unpacks to, which is not the layer yet.

        Raises as :meth:`extract` does.
        """
        if media_type not in LAYER_TYPES:
            raise InvalidLayer(f"a layer of the type {media_type[:80]!r} is not supported")
        with self._staging.directory() as staging:
            with self._unpackers.one() as unpacker:
                try:
                    found = unpacker.unpack(blob, staging, self._caps, progress)
                except InvalidLayer as error:
                    raise InvalidLayer(f"layer {diffid.short} is refused: {error}") from error
            if found != diffid.hex:
                raise InvalidLayer(
                    f"layer {diffid.short} unpacks to sha256:{found[:12]}..., not to what the "
                    "image's config promises: the image is damaged"
                )
            yield staging

    def renew(self, blob: Path, media_type: str, diffid: Digest) -> None:
        """Put what the blob unpacks to in the place of the layer. Raises as :meth:`extract`.

        For a layer that is damaged and that nothing runs on.
        """
        with (
            self.unpacked(blob, media_type, diffid) as staging,
            self._staging.directory() as grave,
        ):
            if self.has(diffid):
                self.move(diffid, grave)
            _publish(staging, self._directory(diffid))

    @contextmanager
    def copying(self) -> Iterator[LayerCopy]:
        """Give a layer to be filled; :meth:`keep` adds it, else nothing stays of it.

        Raises StoreFull, OSError.
        """
        from .copying import LayerCopy  # noqa: PLC0415 - starts read layers, and make none

        try:
            with (
                self._staging.directory() as staging,
                LayerCopy(staging, max_entries=self._caps.max_entries) as copy,
            ):
                yield copy
        except OSError as error:
            raise_if_full(error, "a layer in the store")
            raise

    def keep(self, copy: LayerCopy) -> tuple[Digest, int]:
        """Add a layer that is filled; return its diffID, and its archive's size in bytes.

        One that is there already stays. Raises StoreFull, StoreError.
        """
        found, size_bytes = copy.finish_copy()
        diffid = Digest("sha256", found)
        if not self.has(diffid):
            copy.sync()
            _publish(copy.directory, self._directory(diffid))
        return diffid, size_bytes

    def __reduce__(self) -> tuple[type[Layers], tuple[Layout, Staging, Inside, Caps]]:
        """Return what it is for whom it is sent to; see :mod:`.inside`."""
        return Layers, (self._layout, self._staging, self._inside, self._caps)

    def archive(self, diffid: Digest) -> Iterator[bytes]:
        """Yield the archive that the layer was made from, if packing it gives that again.

        At the end it raises InvalidLayer where that is not so, as for layers of other tools; also
        StoreError for a layer that is not there, and what :func:`.pack.pack` raises.
        """
        yield from self._inside.pieces(_archive, self, diffid)

    def chain(self, diffids: Sequence[Digest]) -> tuple[Path, ...]:
        """Return the lower directories of a stack of layers, the bottom one first.

        That is each layer's, but those that an upper one hides whole, and at the top a small one
        more where the layers need it (see :mod:`.chains`), made on first use. The last one's
        root has the mode and owner of the merged root. Raises InvalidLayer, StoreError.
        """
        diffids = _last_of_each(diffids)
        record = self._chain_record(diffids)
        paths = [self.path(diffid) for diffid in diffids[record.first :]]
        if record.fixed:
            paths.append(self._layout.chain(diffids) / "fs")
        return tuple(paths)

    def move(self, diffid: Digest, directory: Path) -> None:
        """Move the layer out of the store; for the garbage collector alone."""
        self._directory(diffid).rename(directory / diffid.hex)

    def _chain_record(self, diffids: Sequence[Digest]) -> chains.ChainRecord:
        record = chains.read(self._layout.chain(diffids))
        return record or self._inside.run(Layers.build_chain, self, diffids)

    def build_chain(self, diffids: Sequence[Digest]) -> chains.ChainRecord:
        """Find out what a stack needs, and add that; for :meth:`chain` alone."""
        layers = [(self.path(diffid), self.record(diffid)) for diffid in diffids]
        with self._staging.directory() as staging:
            record = chains.build(layers, [str(diffid) for diffid in diffids], staging)
            _publish(staging, self._layout.chain(diffids))
        return record

    def _directory(self, diffid: Digest) -> Path:
        return self._layout.layers / diffid.hex


def _archive(layers: Layers, diffid: Digest) -> Iterator[bytes]:
    from .pack import pack  # noqa: PLC0415 - starts read layers, and pack none

    hashed = hashlib.sha256()
    root = os.open(layers.path(diffid), _DIRECTORY)
    try:
        for piece in pack(root):
            hashed.update(piece)
            yield piece
    finally:
        os.close(root)
    if hashed.hexdigest() != diffid.hex:
        raise InvalidLayer(
            f"layer {diffid.short} cannot be packed as it was: its blob is not in the store, "
            "and it is of another tool's making; remove its images and pull them again"
        )


def _last_of_each(diffids: Sequence[Digest]) -> tuple[Digest, ...]:
    """Leave out a layer that comes again above: it hides all of itself.

    An overlay refuses a directory that is there twice (ELOOP), and images often have the same
    empty layer several times.
    """
    return tuple(dict.fromkeys(reversed(diffids)))[::-1]


def _publish(staging: Path, target: Path) -> None:
    """Rename a complete directory to its place, unless another process was first."""
    make_private(target.parent)
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        sync_directory(target.parent)


def _missing(diffid: Digest) -> StoreError:
    return StoreError(f"layer {diffid.short} is not in the store: pull its image again")
