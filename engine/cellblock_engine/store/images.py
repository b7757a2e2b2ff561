"""Images by reference: one JSON file each, named by a hash of the canonical reference.

The file says which manifest the reference names; everything else is in the blobs. An image is
visible once that file is renamed into place, when its blobs and layers are all there.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from ..errors import Conflict, ImageNotFound, InvalidAnswer, InvalidReference, StoreError
from ..image import Image, RemovedImage
from ..layout import Layout
from ..oci.config import MAX_CONFIG_BYTES, HistoryEntry, ImageDocument, parse_config
from ..oci.derivation import derive
from ..oci.digest import Digest
from ..oci.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest
from ..oci.reference import Reference
from ..private import make_private
from .blobs import Blobs
from .collector import Collector
from .layers import Layers
from .locks import Kind, locked
from .staging import Staging, sync_directory

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_GC_WAIT_S = 5.0
_MAX_CACHED = 256


class Images:
    """The images of a store. Thread-safe; several processes may work on one store."""

    def __init__(
        self, layout: Layout, staging: Staging, blobs: Blobs, layers: Layers, collector: Collector
    ) -> None:
        self._layout = layout
        self._staging = staging
        self._blobs = blobs
        self._layers = layers
        self._collector = collector
        # By manifest. What a digest names never changes, so entries only ever become useless.
        self._known: dict[Digest, tuple[Digest, ImageDocument, int]] = {}

    def add(self, reference: Reference, manifest: Digest) -> Image:
        """Let ``reference`` name the image of this manifest, whose parts are all in the store.

        To be called within :meth:`Store.referencing`. Raises StoreError, InvalidLayer, and
        InvalidAnswer for a manifest or config that is none.
        """
        image_id, document, size_bytes = self._read(manifest)
        self._layers.chain(document.diff_ids)
        make_private(self._layout.home, self._layout.references)
        self._publish(reference, manifest)
        return _image(image_id, document, size_bytes, manifest, (reference,))

    def derive(
        self, base: Digest, layer: Descriptor | None, step: HistoryEntry, name: Reference
    ) -> Image:
        """Add the image that the one of the manifest ``base`` is with one layer more; return it.

        Without a layer it is one step of its history more. The layer is in the store. A name
        without a tag gets the image's digest. To be called within
        :meth:`Store.referencing`. Raises as :meth:`add` and :func:`derive` do.
        """
        manifest = self._manifest(base)
        config = self._blobs.read(manifest.config.digest, MAX_CONFIG_BYTES)
        derived = derive(manifest, config, layer, step)
        digest = Digest.of(derived.manifest)
        self._blobs.keep(Digest.of(derived.config), derived.config)
        self._blobs.keep(digest, derived.manifest)
        return self.add(name if name.tag else replace(name, digest=digest), digest)

    def hold(self, name: str) -> Image:
        """Let the image be named by its digest too, so that it stays when its tag moves.

        To be called within :meth:`Store.referencing`. Raises as :meth:`resolve` does.
        """
        image, named = self._resolve(name)
        held = replace(named or image.references[0], tag=None, digest=image.manifest)
        self._publish(held, image.manifest)
        return self.resolve(str(image.id))

    def list(self) -> tuple[Image, ...]:
        """Return all images, each once with all its references, the newest first."""
        by_id: dict[Digest, dict[Reference, Digest]] = {}
        for reference, manifest in self._references().items():
            by_id.setdefault(self._read(manifest)[0], {})[reference] = manifest
        images = []
        for references in by_id.values():
            manifest = references[min(references)]
            images.append(_image(*self._read(manifest), manifest, tuple(sorted(references))))
        return tuple(sorted(images, key=lambda image: (_age(image), image.references)))

    def resolve(self, name: str) -> Image:
        """Return the image with this reference, id or unique beginning of an id.

        A reference comes before the beginning of an id, as in Docker. ``references`` has all
        references of the image. Raises ImageNotFound, InvalidReference.
        """
        return self._resolve(name)[0]

    def remove(self, name: str, *, force: bool = False) -> RemovedImage:
        """Remove a reference and, with an image's last one, the image and what only it needs.

        By id, all its references go, which takes ``force`` where there are several; so does an
        image that a container was made from (whose layers stay while the container does). While
        a pull or start is under way nothing is freed: the next removal does it. Raises
        ImageNotFound, Conflict.
        """
        image, named = self._resolve(name)
        doomed = image.references if named is None else (named,)
        if named is None and len(doomed) > 1 and not force:
            raise Conflict(
                f"image {image.id.short} has {len(doomed)} references: remove them one by one, "
                "or all with --force"
            )
        last = len(doomed) == len(image.references)
        users = self._collector.containers_of(image.id) if last else ()
        if users and not force:
            raise Conflict(
                f"image {name} is used by container {users[0]}: remove that first, "
                "or the image with --force"
            )
        for reference in doomed:
            self._path(reference).unlink(missing_ok=True)
        sync_directory(self._layout.references)  # before anything that they named goes
        try:
            deleted, freed_bytes = self.collect()
        except Conflict:
            deleted, freed_bytes = (), 0
        if last:
            deleted = (image.id, *deleted)
        return RemovedImage(doomed, deleted, freed_bytes)

    def collect(self) -> tuple[tuple[Digest, ...], int]:
        """Remove what no reference and no container needs.

        Returns the diffIDs of the layers removed, and the bytes freed. Raises Conflict when
        others keep making references.
        """
        with (
            self._staging.directory() as grave,  # emptied last, when the lock is given back
            locked(
                self._layout.gc_lock, Kind.EXCLUSIVE, timeout_s=_GC_WAIT_S, what="the image store"
            ),
        ):
            blobs: set[Digest] = set()
            stacks = []
            held = {m for m in self._collector.manifests() if self._blobs.has(m)}
            for manifest in held.union(self._references().values()):
                parsed = self._manifest(manifest)
                blobs |= {manifest, parsed.config.digest, *(d.digest for d in parsed.layers)}
                stacks.append(self._read(manifest)[1].diff_ids)
            return self._collector.take(blobs, stacks, grave)

    def _resolve(self, name: str) -> tuple[Image, Reference | None]:
        """Return the image, and the reference if ``name`` is one."""
        references = self._references()
        as_id = _ID.fullmatch(name)
        if not (as_id and name.startswith("sha256:")):
            try:
                reference = Reference.parse(name)
            except InvalidReference:
                if as_id is None:
                    raise
            else:
                if reference in references:
                    return self._with_all(references, references[reference]), reference
        found = {}
        if as_id is not None:
            for manifest in references.values():
                image_id = self._read(manifest)[0]
                if image_id.hex.startswith(as_id[1]):
                    found[image_id] = manifest
        if len(found) > 1:
            raise ImageNotFound(f"{name} begins the ids of {len(found)} images: give more digits")
        if not found:
            raise ImageNotFound(f"image {name} is not in the store: pull it, or see images")
        return self._with_all(references, *found.values()), None

    def _with_all(self, references: dict[Reference, Digest], manifest: Digest) -> Image:
        image_id, document, size_bytes = self._read(manifest)
        same = (r for r, m in references.items() if self._read(m)[0] == image_id)
        return _image(image_id, document, size_bytes, manifest, tuple(sorted(same)))

    def _publish(self, reference: Reference, manifest: Digest) -> None:
        content = {"reference": str(reference), "manifest": str(manifest)}
        self._staging.publish_json(self._path(reference), content)

    def _references(self) -> dict[Reference, Digest]:
        """Return the manifest of every reference."""
        found = {}
        directory = self._layout.references
        for path in directory.iterdir() if directory.is_dir() else ():
            try:
                known = json.loads(path.read_bytes())
                found[Reference.parse(known["reference"])] = Digest.parse(known["manifest"])
            except FileNotFoundError:
                continue  # removed since
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{path} is damaged: remove it and pull again") from error
        return found

    def _read(self, manifest: Digest) -> tuple[Digest, ImageDocument, int]:
        """Return id, config and size of the image with this manifest."""
        known = self._known.get(manifest)
        if known is None:
            config = self._manifest(manifest).config.digest
            document = parse_config(self._blobs.read(config, MAX_CONFIG_BYTES))
            size_bytes = sum(map(self._layers.size_bytes, document.diff_ids))
            known = config, document, size_bytes
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[manifest] = known
        return known

    def _manifest(self, digest: Digest) -> Manifest:
        parsed = parse_manifest(self._blobs.read(digest, MAX_MANIFEST_BYTES), None)
        if not isinstance(parsed, Manifest):
            raise InvalidAnswer(f"{digest.short} is an index, not the manifest of an image")
        return parsed

    def _path(self, reference: Reference) -> Path:
        return self._layout.references / f"{Digest.of(str(reference).encode()).hex}.json"


def _image(
    image_id: Digest,
    document: ImageDocument,
    size_bytes: int,
    manifest: Digest,
    references: tuple[Reference, ...],
) -> Image:
    return Image(
        id=image_id,
        references=references,
        manifest=manifest,
        created=document.created,
        size_bytes=size_bytes,
        platform=document.platform,
        layers=document.diff_ids,
        config=document.config,
    )


def _age(image: Image) -> float:
    """Return a number that is smaller for newer images; those without a date come last."""
    return -image.created.timestamp() if image.created is not None else 0.0
