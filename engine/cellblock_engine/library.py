"""The images of one store: fetched and sent, read from archives, named and looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from .errors import CellblockError, ImageNotFound, InvalidInput, StoreFull, Unsupported
from .image import Image, parse_name
from .layout import Layout
from .oci.platform import Platform
from .oci.reference import Reference
from .progress import Progress
from .request import HOST_IMAGE
from .settings import Settings
from .store import Store
from .store.formats import migrate

if TYPE_CHECKING:
    from .comparison import Change
    from .explanation import Explanation
    from .freezing.image import FreezeEvent, Frozen
    from .history import HistoryRow
    from .imagerequest import FreezeRequest, ImportRequest
    from .oci.provenance import Provenance
    from .packages.package import Package, PackageChange
    from .registry.search import FoundImage


class Library:
    """What an engine does with images alone, whatever is run of them."""

    def __init__(self, layout: Layout, settings: Settings | None = None) -> None:
        self._layout = layout
        self._settings = settings

    @property
    def settings(self) -> Settings:
        """What the config file and the environment have settled, read once. Raises InvalidInput."""
        if self._settings is None:
            self._settings = Settings.load()
        return self._settings

    @property
    def home(self) -> Path:
        """Where its store is, or would be."""
        return self._layout.home

    @cached_property
    def _store(self) -> Store:
        migrate(self._layout)
        return Store(self._layout, wants_single=lambda: self.settings.single_id)

    def pull(
        self, reference: str, *, platform: str | None = None, progress: Progress | None = None
    ) -> Image:
        """Fetch an image from its registry and unpack its layers; return it.

        ``platform`` is ``os/architecture[/variant]``, by default this machine's. Raises
        InvalidReference, RegistryError and its kinds, ImageNotFound, StoreError and its kinds;
        after StoreFull nothing of the image stays, unless others are using the store.
        """
        from .registry.keyring import Keyring  # noqa: PLC0415 - as does this
        from .registry.pull import pull  # noqa: PLC0415 - brings the HTTP library

        self._store.sweep()  # what a killed pull left half done
        with self._collecting_when_full():
            return pull(
                Reference.parse(reference),
                self._store,
                platform=Platform.parse(platform) if platform else None,
                progress=progress,
                keyring=Keyring.of().find,
                registries=self.settings.registries,
            )

    def push(
        self,
        reference: str,
        *,
        progress: Progress | None = None,
        compression: Literal["gzip", "zstd", "none"] = "gzip",
    ) -> Image:
        """Send the image of this name to the registry that is in it; return it.

        A pulled image keeps its manifest and blobs. Layers of commits are packed with
        ``compression`` first; then the name means a manifest with these, here as in the
        registry. Raises ImageNotFound, InvalidInput, RegistryError and its kinds, StoreError and
        its kinds; the registry then has no image of it.
        """
        from .registry.keyring import Keyring  # noqa: PLC0415 - as does this
        from .registry.push import push  # noqa: PLC0415 - brings the HTTP library

        if compression not in ("gzip", "zstd", "none"):
            raise InvalidInput(f"compression {compression!r} is not known: gzip, zstd or none")
        target = parse_name(reference)
        self._store.sweep()  # what a killed one left half done
        with self._collecting_when_full():
            return push(
                target,
                self._store,
                compression=compression,
                progress=progress,
                keyring=Keyring.of().find,
                registries=self.settings.registries,
            )

    def search(self, term: str, *, limit: int = 25) -> tuple[FoundImage, ...]:
        """Return what a registry finds for ``[REGISTRY/]TERM``, at most ``limit`` (1 to 100).

        Docker Hub, and registries that have its search, are asked for it; of others the
        catalogue is read. Raises InvalidInput, RegistryError and its kinds.
        """
        from .registry.keyring import Keyring  # noqa: PLC0415 - as does this
        from .registry.search import search  # noqa: PLC0415 - brings the HTTP library

        return search(
            term, limit=limit, registries=self.settings.registries, keyring=Keyring.of().find
        )

    @contextmanager
    def _collecting_when_full(self) -> Iterator[None]:
        try:
            yield
        except StoreFull:
            with suppress(CellblockError, OSError):  # the lack of room is what is to be told
                self._store.images.collect()
            raise

    def login(self, registry: str, username: str, password: str) -> str:
        """Have a registry check the credentials and keep them where Docker does.

        An empty ``registry`` is Docker Hub. Returns, for people, where they are kept. Raises
        AccessDenied, RegistryError and its other kinds, InvalidInput.
        """
        from .registry import login  # noqa: PLC0415 - brings the HTTP library
        from .registry.auth import Credentials  # noqa: PLC0415 - as does this
        from .registry.keyring import Keyring  # noqa: PLC0415 - as does this

        name, credentials = login.registry_of(registry), Credentials(username, password)
        login.check(name, credentials, self.settings.registries)
        return Keyring.of().store(name, credentials)

    def logout(self, registry: str) -> bool:
        """Forget the credentials for a registry; tell whether there were any.

        Raises InvalidInput, AccessDenied for a credential helper that fails.
        """
        from .registry.keyring import Keyring  # noqa: PLC0415 - brings the HTTP library
        from .registry.login import registry_of  # noqa: PLC0415 - as does this

        return Keyring.of().erase(registry_of(registry)) == "erased"

    def images(self, *, nameless: bool = False) -> tuple[Image, ...]:
        """Return the images in the store, newest first.

        With ``nameless`` also those that lost their names, as long as containers need them.
        """
        if not nameless:
            return self._store.images.list()
        with self._store.referencing():  # what only a container keeps may go at any moment
            return self._store.images.list(nameless=True)

    def image(self, name: str) -> Image:
        """Return the image of this reference, id or unique start of an id. Raises ImageNotFound."""
        return self._store.images.resolve(name)

    def hold_image(self, name: str) -> Image:
        """Keep an image in the store by its digest, also when its tag moves; return it.

        Until it is removed, by its id or that reference. Raises ImageNotFound, StoreError.
        """
        with self._store.referencing():
            return self._store.images.hold(name)

    def tag(self, source: str, target: str) -> Image:
        """Give an image one more name, which may have been another's; return it.

        Raises ImageNotFound, Unsupported for the host image, InvalidInput for a name with a
        digest, or ``host``.
        """
        if source == HOST_IMAGE:
            raise Unsupported(
                f"{source!r} is this machine's own image: it has no other name, and goes nowhere"
            )
        reference = parse_name(target)
        with self._store.referencing():
            return self._store.images.tag(source, reference)

    def save(self, names: Sequence[str], target: Path | BinaryIO) -> None:
        """Write images, each with all it needs, into one archive that Docker reads as well.

        A name is in it as it was given; an image that was given by its id has none there. A file
        is there whole or not at all. Raises ImageNotFound, InvalidInput, Unsupported for the
        host image, StoreError and its kinds, OSError for a stream.
        """
        from .archive.save import save  # noqa: PLC0415 - as seldom as a pull
        from .archive.target import write  # noqa: PLC0415 - as does this

        write(save(self._store, names), target)

    def load(self, source: Path | BinaryIO) -> tuple[Image, ...]:
        """Add the images of an archive or an OCI layout; return each once for each of its names.

        A stream is one with a descriptor. An image without a name is held by its digest. Raises
        InvalidInput, InvalidArchive and StoreError's other kinds, PlatformNotFound; then there is
        no new image, and after StoreFull nothing of one stays, unless others use the store.
        """
        from .archive.load import load  # noqa: PLC0415 - as seldom as a pull

        self._store.sweep()  # what a killed one left half done
        with self._collecting_when_full():
            return load(self._store, source)

    def import_image(
        self,
        source: Path | BinaryIO,
        reference: str | None = None,
        request: ImportRequest | None = None,
    ) -> Image:
        """Make an image of one layer of the files in a tar archive; return it.

        The archive may be compressed by gzip or zstd; a stream is one with a descriptor. Without
        ``reference`` the image is held by its digest. Raises InvalidInput, InvalidArchive and
        StoreError's other kinds; then there is no image.
        """
        from .archive.importing import import_tree  # noqa: PLC0415 - as seldom as a pull
        from .imagerequest import ImportRequest  # noqa: PLC0415 - as this

        target = parse_name(reference) if reference is not None else None
        self._store.sweep()  # what a killed one left half done
        with self._collecting_when_full():
            return import_tree(self._store, source, target, request or ImportRequest())

    def freeze(
        self,
        reference: str,
        request: FreezeRequest | None = None,
        *,
        progress: Callable[[FreezeEvent], None] | None = None,
    ) -> Frozen:
        """Make a portable image of a Python and its packages, as they are on this machine.

        Its layers are the interpreter with what it needs of the system, the packages, and the
        projects that are installed in place or asked for. Raises InvalidInput for a Python that
        cannot be asked, Unsupported for one whose prefix has more in it, Conflict for files that
        change meanwhile, StoreError and its kinds; then there is no image.
        """
        from .freezing.image import freeze  # noqa: PLC0415 - as seldom as a pull
        from .imagerequest import FreezeRequest  # noqa: PLC0415 - as this

        target = parse_name(reference)
        self._store.sweep()  # what a killed one left half done
        with self._collecting_when_full():
            wanted = request or FreezeRequest()
            return freeze(self._store, self._layout, target, wanted, progress)

    def explain_freeze(self, request: FreezeRequest | None = None) -> Explanation:
        """Return what :meth:`freeze` would put into an image, without making one.

        Raises as that does, but StoreError.
        """
        from .freezing.image import explain  # noqa: PLC0415 - as does that
        from .imagerequest import FreezeRequest  # noqa: PLC0415 - as this

        return explain(self._layout, request or FreezeRequest())

    def derived_image(self, base: Image, recipe: str) -> Image | None:
        """Return what was made of ``base`` by ``recipe`` and noted, if it is still in the store."""
        derived = self._store.derivations.find(base.id, recipe)
        try:
            return None if derived is None else self._store.images.resolve(str(derived))
        except ImageNotFound:
            return None

    def note_derived(self, base: Image, recipe: str, derived: Image) -> None:
        """Let :meth:`derived_image` find ``derived``. Raises OSError."""
        self._store.derivations.note(base.id, recipe, derived.id)

    def history(self, name: str) -> tuple[HistoryRow, ...]:
        """Return the steps in which an image was made, the newest first.

        Raises ImageNotFound, Unsupported for the host image, InvalidReference, StoreError.
        """
        from .history import history  # noqa: PLC0415 - asked for seldom

        with self._store.referencing():
            return history(self._store, self._store.images.document(self._of_layers(name)))

    def provenance(self, name: str) -> tuple[Provenance | None, ...]:
        """Return what is known of where each step of an image comes from, the newest first.

        It is the word of whoever made the image. Raises ImageNotFound, Unsupported for the
        host image, InvalidReference.
        """
        from .oci.provenance import read_provenance  # noqa: PLC0415 - asked for seldom

        with self._store.referencing():
            return read_provenance(self._store.images.document(self._of_layers(name)))[::-1]

    def diff_images(self, one: str, other: str) -> tuple[Change, ...]:
        """Return what is added, changed and deleted from one image to the other, by path.

        Files are compared by their attributes and, where these are equal, by their content.
        Raises ImageNotFound, Unsupported for the host image, InvalidReference, StoreError.
        """
        from .comparison import image_changes  # noqa: PLC0415 - asked for seldom

        with self._store.referencing():
            images = self._of_layers(one), self._of_layers(other)
            return self._store.inside.run(image_changes, self._store, *images)

    def packages(self, name: str) -> tuple[Package, ...]:
        """Return the packages that are installed in an image, by kind and name.

        Read from its files: Python's packages, Debian's, Alpine's. Raises ImageNotFound,
        Unsupported for the host image, InvalidReference, StoreError, also for lists that are too
        long.
        """
        from .packages.search import packages  # noqa: PLC0415 - asked for seldom

        with self._store.referencing():
            layers = self._store.layers.chain(self._of_layers(name).layers)
            return tuple(self._store.inside.run(packages, layers))

    def package_changes(self, one: str, other: str) -> tuple[PackageChange, ...]:
        """Return the packages that were added, removed and changed from one image to the other.

        Raises as :meth:`packages` does.
        """
        from .packages.search import changes  # noqa: PLC0415 - asked for seldom

        with self._store.referencing():
            chain = self._store.layers.chain
            before, after = (chain(self._of_layers(name).layers) for name in (one, other))
            return tuple(self._store.inside.run(changes, before, after))

    def _of_layers(self, name: str) -> Image:
        """Return an image that has layers to look at."""
        if name == HOST_IMAGE:
            raise Unsupported(f"{name!r} is this machine's own image: it has no layers to look at")
        return self._store.images.resolve(name)
