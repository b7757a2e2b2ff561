"""Images, by what names them, and what they are made of.

An image is visible once a reference names its manifest, when its blobs and layers are all there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import Conflict, ImageNotFound, InvalidAnswer, InvalidReference
from ..image import Image, RemovedImage
from ..layout import Layout
from ..oci.config import MAX_CONFIG_BYTES, HistoryEntry, ImageDocument, parse_config
from ..oci.derivation import Derived, derive
from ..oci.digest import Digest
from ..oci.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest
from ..oci.reference import Reference
from .blobs import Blobs
from .collector import Collector, Holdings
from .layers import Layers
from .locks import Kind, locked
from .references import References
from .staging import Staging

if TYPE_CHECKING:
    from ..oci.instructions import Instruction
    from ..oci.provenance import Provenance

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_GC_WAIT_S = 5.0
_MAX_CACHED = 256
_NO_STEP = HistoryEntry(None, "", "", "", empty_layer=True)


Kept = Literal["tagged", "used"]
"""What a pruning leaves: images that have a tag or are used, or only those that are used."""


@dataclass(frozen=True)
class Unneeded:
    """References and images that could go, and what would be freed with them."""

    names: tuple[Reference, ...]
    images: tuple[Digest, ...]
    garbage: Holdings


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
        self._references = References(layout, staging)
        # By manifest. What a digest names never changes, so entries only ever become useless.
        self._known: dict[Digest, tuple[Digest, ImageDocument, int]] = {}
        self._ids: dict[Digest, Digest] = {}

    def add(self, reference: Reference, manifest: Digest, *, served: bool = False) -> Image:
        """Let ``reference`` name the image of this manifest, whose parts are all in the store.

        ``served`` notes that its registry has that manifest under this reference. To be called
        within :meth:`Store.referencing`. Raises StoreError, InvalidLayer, and InvalidAnswer for
        a manifest or config that is none.
        """
        image_id, document, size_bytes = self._read(manifest)
        self._layers.chain(document.diff_ids)
        self._references.publish(reference, manifest, served=served)
        return _image(image_id, document, size_bytes, manifest, (reference,))

    def supersede(
        self, reference: Reference, old: Digest, new: Digest, *, served: bool = False
    ) -> None:
        """Let ``reference`` name the manifest ``new``, unless it names ``old`` no more.

        ``new`` is of the same image. To be called within :meth:`Store.referencing`.
        """
        if self._references.all().get(reference) == old:
            self._references.publish(reference, new, served=served)

    def tag(self, source: str, target: Reference) -> Image:
        """Let ``target`` name an image too; return that with all its references.

        To be called within :meth:`Store.referencing`. Raises as :meth:`resolve` does.
        """
        image = self._resolve(source)[0]
        self._references.publish(target, image.manifest)
        return self.resolve(str(target))

    def derive(
        self,
        base: Digest,
        layer: Descriptor | None,
        step: HistoryEntry,
        name: Reference,
        changes: Sequence[Instruction] = (),
        *,
        provenance: Provenance | None = None,
    ) -> Image:
        """Add the image that the one of the manifest ``base`` is with one layer more; return it.

        Without a layer it is one step of its history more. The layer is in the store. A name
        without a tag gets the image's digest. To be called within
        :meth:`Store.referencing`. Raises as :meth:`add` and :func:`derive` do.
        """
        derived = self._derived(base, layer, step, changes, provenance=provenance)
        digest = Digest.of(derived.manifest)
        self._blobs.keep(Digest.of(derived.config), derived.config)
        self._blobs.keep(digest, derived.manifest)
        return self.add(name if name.tag else replace(name, digest=digest), digest)

    def check_changes(self, base: Digest, changes: Sequence[Instruction]) -> None:
        """Raise what :meth:`derive` would for these changes, before there is a layer."""
        self._derived(base, None, _NO_STEP, changes)

    def hold(self, name: str) -> Image:
        """Let the image be named by its digest too, so that it stays when its tag moves.

        To be called within :meth:`Store.referencing`. Raises as :meth:`resolve` does.
        """
        image, named = self._resolve(name)
        held = replace(named or image.references[0], tag=None, digest=image.manifest)
        self._references.publish(held, image.manifest)
        return self.resolve(str(image.id))

    def manifest(self, digest: Digest) -> tuple[bytes, Manifest]:
        """Return the bytes of an image's manifest, and what they say. Raises StoreError."""
        return self._blobs.read(digest, MAX_MANIFEST_BYTES), self._manifest(digest)

    def packed(self) -> dict[Digest, tuple[Descriptor, ...]]:
        """Return, by diffID, the blobs of the store that layers of its images are packed in."""
        found: dict[Digest, dict[Digest, Descriptor]] = {}
        for manifest in set(self._references.all().values()):
            diffids, layers = self._read(manifest)[1].diff_ids, self._manifest(manifest).layers
            for diffid, layer in zip(diffids, layers, strict=True):
                if self._blobs.has(layer.digest):
                    found.setdefault(diffid, {})[layer.digest] = layer
        return {diffid: tuple(blobs.values()) for diffid, blobs in found.items()}

    def served(self, registry: str) -> dict[Digest, str]:
        """Return in which repository of a registry, as far as is known here, a blob is."""
        return {
            layer.digest: reference.repository
            for reference, manifest, served in sorted(self._references.named())
            if served and reference.registry == registry
            for layer in self._manifest(manifest).layers
        }

    def list(self, *, nameless: bool = False) -> tuple[Image, ...]:
        """Return all images, each once with all its references, the newest first.

        With ``nameless`` also those that lost their last reference and a container still needs.
        """
        return self._references.steadily(
            lambda references: self._listed(references, nameless=nameless)
        )

    def _listed(
        self, references: Mapping[Reference, Digest], *, nameless: bool
    ) -> tuple[Image, ...]:
        by_id: dict[Digest, dict[Reference, Digest]] = {}
        for reference, manifest in references.items():
            by_id.setdefault(self._id(manifest), {})[reference] = manifest
        images = []
        for names in by_id.values():
            manifest = names[min(names)]
            images.append(_image(*self._read(manifest), manifest, tuple(sorted(names))))
        for manifest in self._collector.manifests() if nameless else ():
            if self._blobs.has(manifest) and (image_id := self._id(manifest)) not in by_id:
                by_id[image_id] = {}
                images.append(_image(*self._read(manifest), manifest, ()))
        return tuple(sorted(images, key=lambda image: (_age(image), image.references)))

    def resolve(self, name: str) -> Image:
        """Return the image with this reference, id or unique beginning of an id.

        A reference comes before the beginning of an id, as in Docker. ``references`` has all
        references of the image. Raises ImageNotFound, InvalidReference.
        """
        return self._resolve(name)[0]

    def document(self, image: Image) -> ImageDocument:
        """Return the config of an image that is in the store. Raises StoreError, InvalidAnswer."""
        return self._read(image.manifest)[1]

    def remove(
        self, name: str, *, force: bool = False, running: Collection[str] = ()
    ) -> RemovedImage:
        """Remove a reference and, with an image's last one, the image and what only it needs.

        By id, all its references go, which takes ``force`` where there are several (but for a tag
        and digests of one repository); so does an image that a container was made from (whose
        layers stay while the container does). Images of the ids ``running`` are kept in any
        case. While a pull or start is under way nothing is freed: the next removal does it.
        Raises ImageNotFound, Conflict.
        """
        image, named = self._resolve(name)
        doomed = image.references if named is None else (named,)
        if named is None and _are_several(doomed) and not force:
            raise Conflict(
                f"image {image.id.short} has {len(doomed)} references: remove them one by one, "
                "or all with --force"
            )
        last = len(doomed) == len(image.references)
        if last and str(image.id) in running:
            raise Conflict(f"image {name} is used by a container that runs: stop that first")
        users = self._collector.containers_of(image.id) if last else ()
        if users and not force:
            raise Conflict(
                f"image {name} is used by container {users[0]}: remove that first, "
                "or the image with --force"
            )
        self._references.remove(doomed)
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
        with self._alone() as grave:
            return self._collector.take(self._garbage(self._references.all()), grave)

    def unneeded(
        self, which: Kept, *, keep: Collection[Digest] = (), without: Collection[str] = ()
    ) -> Unneeded:
        """Return the images that could go, but those of the ids ``keep``, and what with them.

        ``without`` are ids of containers that are taken to be gone. To be called within
        :meth:`Store.referencing`. Raises StoreError.
        """
        references = self._references.all()
        used = {*self._collector.users(without=without), *map(str, keep)}
        named: dict[Digest, list[Reference]] = {}
        for reference, manifest in references.items():
            named.setdefault(self._id(manifest), []).append(reference)
        images = sorted(
            image
            for image, names in named.items()
            if str(image) not in used
            and (which == "used" or all(reference.tag is None for reference in names))
        )
        names = tuple(sorted(name for image in images for name in named[image]))
        left = {name: references[name] for name in references.keys() - set(names)}
        return Unneeded(names, tuple(images), self._garbage(left, without))

    def users(self) -> set[str]:
        """Return the ids of the images that containers were made from."""
        return self._collector.users()

    def holdings(self) -> Holdings:
        """Return everything that is kept. Raises StoreError."""
        return self._collector.holdings()

    def prune(self, which: Kept, *, keep: Collection[Digest] = ()) -> RemovedImage:
        """Remove what :meth:`unneeded` returns. Raises Conflict while the store is in use."""
        with self._alone() as grave:
            unneeded = self.unneeded(which, keep=keep)
            if unneeded.names:
                self._references.remove(unneeded.names)
            deleted, freed_bytes = self._collector.take(unneeded.garbage, grave)
        return RemovedImage(unneeded.names, (*unneeded.images, *deleted), freed_bytes)

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """Hold the store alone; give a directory for what is to be freed when the lock is not."""
        with (
            self._staging.directory() as grave,  # emptied last
            locked(
                self._layout.gc_lock, Kind.EXCLUSIVE, timeout_s=_GC_WAIT_S, what="the image store"
            ),
        ):
            yield grave

    def _garbage(
        self, references: Mapping[Reference, Digest], without: Collection[str] = ()
    ) -> Holdings:
        blobs: set[Digest] = set()
        stacks = []
        needed = self._collector.manifests(without=without)
        held = {manifest for manifest in needed if self._blobs.has(manifest)}
        for manifest in held.union(references.values()):
            parsed = self._manifest(manifest)
            blobs |= {manifest, parsed.config.digest, *(d.digest for d in parsed.layers)}
            stacks.append(self._read(manifest)[1].diff_ids)
        return self._collector.garbage(blobs, stacks, without=without)

    def _resolve(self, name: str) -> tuple[Image, Reference | None]:
        """Return the image, and the reference if ``name`` is one."""
        return self._references.steadily(lambda references: self._found(name, references))

    def _found(
        self, name: str, references: dict[Reference, Digest]
    ) -> tuple[Image, Reference | None]:
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
                image_id = self._id(manifest)
                if image_id.hex.startswith(as_id[1]):
                    found[image_id] = manifest
        if len(found) > 1:
            raise ImageNotFound(f"{name} begins the ids of {len(found)} images: give more digits")
        if not found:
            raise ImageNotFound(f"image {name} is not in the store: pull it, or see images")
        return self._with_all(references, *found.values()), None

    def _with_all(self, references: dict[Reference, Digest], manifest: Digest) -> Image:
        image_id, document, size_bytes = self._read(manifest)
        same = (r for r, m in references.items() if self._id(m) == image_id)
        return _image(image_id, document, size_bytes, manifest, tuple(sorted(same)))

    def _read(self, manifest: Digest) -> tuple[Digest, ImageDocument, int]:
        """Return id, config and size of the image with this manifest."""
        known = self._known.get(manifest)
        if known is None:
            config = self._id(manifest)
            document = parse_config(self._blobs.read(config, MAX_CONFIG_BYTES))
            size_bytes = sum(map(self._layers.size_bytes, document.diff_ids))
            known = config, document, size_bytes
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[manifest] = known
        return known

    def _id(self, manifest: Digest) -> Digest:
        """Return the id of the image with this manifest: its config's digest."""
        known = self._ids.get(manifest)
        if known is None:
            known = self._manifest(manifest).config.digest
            if len(self._ids) >= _MAX_CACHED:
                self._ids.clear()
            self._ids[manifest] = known
        return known

    def _derived(
        self,
        base: Digest,
        layer: Descriptor | None,
        step: HistoryEntry,
        changes: Sequence[Instruction],
        *,
        provenance: Provenance | None = None,
    ) -> Derived:
        manifest = self._manifest(base)
        config = self._blobs.read(manifest.config.digest, MAX_CONFIG_BYTES)
        return derive(manifest, config, layer, step, changes, provenance=provenance)

    def _manifest(self, digest: Digest) -> Manifest:
        parsed = parse_manifest(self._blobs.read(digest, MAX_MANIFEST_BYTES), None)
        if not isinstance(parsed, Manifest):
            raise InvalidAnswer(f"{digest.short} is an index, not the manifest of an image")
        return parsed


def _are_several(references: tuple[Reference, ...]) -> bool:
    """Tell whether these are more than what one pull, and the digest it found, can leave."""
    tagged = sum(reference.tag is not None for reference in references)
    return tagged > 1 or len({reference.name for reference in references}) > 1


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
