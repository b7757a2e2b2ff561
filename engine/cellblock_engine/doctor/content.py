"""A store's content, looked through: every record read, every blob and layer compared.

Needs the store not to be collected meanwhile (:meth:`..store.Store.referencing`), or to be alone.
Changes nothing: what it finds are :mod:`.faults`.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CellblockError, InvalidDigest, StoreError
from ..layout import Layout
from ..oci.config import MAX_CONFIG_BYTES, parse_config
from ..oci.digest import Digest
from ..oci.manifest import Descriptor
from ..oci.reference import Reference
from ..runtime import state
from ..store import Store, chains, formats, verification
from ..store.containers import ContainerConfig, Containers
from ..store.names import is_name
from . import faults
from .faults import Fault

_ID_LENGTH = 64
_REMOVING_S = 0.2
_WRONG = (ValueError, KeyError, TypeError, AttributeError, CellblockError)


@dataclass
class _Needed:
    """What images need, with the names of these."""

    layers: dict[Digest, list[Reference]] = field(default_factory=dict)
    blobs: dict[Digest, list[Reference]] = field(default_factory=dict)
    packed: dict[Digest, list[Descriptor]] = field(default_factory=dict)
    """The blobs of a layer, by its diffID."""
    own: set[Digest] = field(default_factory=set)
    """Layers that were made here, and have no blob until they are pushed."""


class Examination:
    """One look through a store; ``quick`` leaves out contents, which takes a while."""

    def __init__(self, layout: Layout, store: Store, *, quick: bool) -> None:
        self._layout, self._store, self._quick = layout, store, quick
        self._needed = _Needed()
        self._whole: dict[Digest, bool] = {}
        self._faulty: set[Digest] = set()
        self._counts = {"images": 0, "blobs": 0, "layers": 0, "containers": 0}

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong."""
        yield from self._modes()
        yield from self._containers()
        yield from self._blobs()
        broken = list(self._images())
        with nullcontext() if self._quick else self._store.layers.warm():
            yield from self._layers()
        yield from broken
        yield from self._chains()
        yield from self._derivations()

    def told(self) -> str:
        """Return what was looked at, in words, once that is done."""
        counts = ", ".join(f"{count} {what}" for what, count in self._counts.items())
        return f"{counts}{'; contents were not read' if self._quick else ''}"

    def _modes(self) -> Iterator[Fault]:
        # The store's own directory may be one that its user made, and others may look into.
        masks = {self._layout.home: 0o022}
        masks |= {
            path: 0o077 for path in _entries(self._layout.home) if path.name in formats.ENTRIES
        }
        for path, mask in masks.items():
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode) and mode & mask:
                yield faults.Exposed(path, mode, mode & ~mask)

    def _containers(self) -> Iterator[Fault]:
        known = Containers(self._layout)
        for path in _entries(self._layout.containers):
            if path.name.startswith("."):
                continue  # put aside, and being removed
            if len(path.name) != _ID_LENGTH or not path.is_dir():
                yield faults.Stray(path, "container")
                continue
            try:
                config = known.read(path.name)
            except (StoreError, *_WRONG):
                config, why = None, "its config is damaged"
            else:
                why = _why_not(config, path.name) if config else ""
            if why:
                if not state.is_live(os.fspath(path)):
                    yield faults.DamagedContainer(path, why)
            elif config is not None:
                self._counts["containers"] += 1
                yield from self._name(config)
        for path in _entries(self._layout.names):
            if not path.is_symlink():
                yield faults.Stray(path, "name of a container")

    def _name(self, config: ContainerConfig) -> Iterator[Fault]:
        # One that is being removed has lost its name a moment before its directory.
        for pause_s in (0, _REMOVING_S):
            time.sleep(pause_s)
            if not (self._layout.containers / config.id).exists():
                return
            with suppress(OSError):
                if os.fspath((self._layout.names / config.name).readlink()) == config.id:
                    return
        yield faults.Nameless(config.id, config.name)

    def _blobs(self) -> Iterator[Fault]:
        """Hash all blobs; which images need damaged ones is told with the images."""
        for path in _entries(self._layout.blobs):
            digest = _digest(path.name)
            if digest is None or not stat.S_ISREG(path.lstat().st_mode):
                yield faults.Stray(path, "blob")
                continue
            self._counts["blobs"] += 1
            self._whole[digest] = self._quick or verification.blob_is_whole(path, digest)

    def _images(self) -> Iterator[Fault]:
        """Yield broken images, and damaged blobs, and note what whole ones need."""
        by_manifest: dict[Digest, list[Reference]] = {}
        for path in _entries(self._layout.references):
            try:
                known = json.loads(path.read_bytes())
                reference = Reference.parse(known["reference"])
                manifest = Digest.parse(known["manifest"])
            except _WRONG:
                lost = "the name of an image, which one it does not say"
                yield faults.Unreadable(path, "reference", lost, "pull or tag it again")
                continue
            if path != self._layout.reference(reference):
                yield faults.Stray(path, "reference")
                continue
            by_manifest.setdefault(manifest, []).append(reference)
        for manifest, references in by_manifest.items():
            self._counts["images"] += 1
            why = self._image(manifest, references)
            if why is not None:
                yield faults.BrokenImage(tuple(sorted(references)), why)
        for digest, whole in self._whole.items():
            if not whole:
                names = tuple(sorted(set(self._needed.blobs.get(digest, ()))))
                yield faults.DamagedBlob(self._layout.blobs / digest.hex, names)

    def _image(self, digest: Digest, names: list[Reference]) -> str | None:
        """Note what an image needs; return why it is none."""
        try:
            manifest = self._store.images.manifest(digest)[1]
            config = self._store.blobs.read(manifest.config.digest, MAX_CONFIG_BYTES)
            diffids = parse_config(config).diff_ids
            pairs = list(zip(diffids, manifest.layers, strict=True))
        except (CellblockError, ValueError) as error:
            return str(error).partition(":")[0]
        for diffid, layer in pairs:
            self._needed.layers.setdefault(diffid, []).extend(names)
            self._needed.blobs.setdefault(layer.digest, []).extend(names)
            self._needed.packed.setdefault(diffid, []).append(layer)
            if layer.digest == diffid:
                self._needed.own.add(diffid)
        return None

    def _layers(self) -> Iterator[Fault]:
        users = self._users()
        there = {}
        for path in _entries(self._layout.layers):
            digest = _digest(path.name)
            if digest is None or not path.is_dir() or path.is_symlink():
                yield faults.Stray(path, "layer")
            else:
                there[digest] = path
        self._counts["layers"] = len(there)
        for diffid in sorted(there.keys() | self._needed.layers.keys()):
            images = tuple(sorted(set(self._needed.layers.get(diffid, ()))))
            archive = self._archive(diffid)
            how = self._differs(diffid, archive) if diffid in there else "is not there"
            if how is not None:
                self._faulty.add(diffid)
                running = users.get(diffid, ())
                is_usable = diffid in there and not verification.is_damaged(self._store, diffid)
                yield faults.DamagedLayer(diffid, how, is_usable, images, archive, running)
            elif archive is None and images and diffid not in self._needed.own:
                blob = self._needed.packed[diffid][0].digest
                if blob not in self._whole:  # a damaged one is told of as such
                    yield faults.AbsentBlob(blob, images)

    def _archive(self, diffid: Digest) -> tuple[Path, str] | None:
        """Return a whole blob that the layer can be made from."""
        for layer in self._needed.packed.get(diffid, ()):
            if self._whole.get(layer.digest, False):
                return self._layout.blobs / layer.digest.hex, layer.media_type
        return None

    def _differs(self, diffid: Digest, archive: tuple[Path, str] | None) -> str | None:
        if self._quick:
            damaged = verification.is_damaged(self._store, diffid)
            return "what is known of it is damaged" if damaged else None
        is_own = diffid in self._needed.own
        return verification.layer_differs(self._store, diffid, archive, is_own=is_own)

    def _users(self) -> dict[Digest, tuple[str, ...]]:
        """Return the containers that run on layers."""
        users: dict[Digest, tuple[str, ...]] = {}
        known = Containers(self._layout)
        for path in _entries(self._layout.containers):
            if path.name.startswith(".") or not state.is_live(os.fspath(path)):
                continue
            try:
                config = known.read(path.name)
                layers = [Digest.parse(each) for each in config.layers] if config else []
            except _WRONG:
                continue
            for layer in layers:
                users[layer] = (*users.get(layer, ()), config.name if config else path.name)
        return users

    def _chains(self) -> Iterator[Fault]:
        running = self._users()
        for path in _entries(self._layout.chains):
            diffids = _stack(self._layout, path)
            if diffids is None:
                yield faults.Unreadable(path, "chain", "nothing: it is made again when needed")
            elif any(each in running or each in self._faulty for each in diffids):
                continue  # mounted now, or gone with the layer when that is mended
            elif not self._quick and self._tried(verification.chain_differs, diffids, path):
                yield faults.Unreadable(path, "chain", "nothing: it is made again when needed")

    def _tried(
        self,
        look: Callable[[Store, tuple[Digest, ...], Path], bool],
        diffids: tuple[Digest, ...],
        path: Path,
    ) -> bool:
        try:
            return look(self._store, diffids, path)
        except (OSError, *_WRONG):
            return True  # of layers that are damaged or gone

    def _derivations(self) -> Iterator[Fault]:
        for path in _entries(self._layout.derivations):
            try:
                noted = json.loads(path.read_bytes())
                named = self._layout.derivation(noted["base"], noted["recipe"])
                Digest.parse(noted["derived"])
            except _WRONG:
                named = None
            if named != path:
                lost = "nothing: the image is made again when needed"
                yield faults.Unreadable(path, "derivation", lost)


def _stack(layout: Layout, directory: Path) -> tuple[Digest, ...] | None:
    """Return the layers of a chain, None where it does not say or is not called by them."""
    try:
        record = chains.read(directory)
        diffids = tuple(map(Digest.parse, record.layers)) if record else ()
    except (OSError, *_WRONG):
        return None
    return diffids if diffids and directory == layout.chain(diffids) else None


def _digest(name: str) -> Digest | None:
    try:
        return Digest("sha256", name)
    except InvalidDigest:
        return None


def _why_not(config: ContainerConfig, identifier: str) -> str:
    """Return what is wrong with a container's config, nothing if it can be its."""
    if config.id != identifier:
        return "its config is another's"
    # What is no name leads out of the directory of names.
    return "" if is_name(config.name) else "its name is none"


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
