"""What a commit knows of where its image comes from, beside what it is told.

The packages are read from the layers: of what the commit has written only, where nothing changes
any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .errors import ImageNotFound, InvalidReference, StoreError
from .log import Log
from .oci.digest import Digest
from .oci.provenance import Provenance, read_provenance
from .oci.reference import Reference
from .packages.package import PackageChange
from .packages.search import changes
from .store import Store
from .store.formats import version

_log = Log(__name__)


def completed(
    told: Provenance,
    store: Store,
    *,
    base: Digest,
    called: str,
    below: Sequence[Digest],
    layer: Digest | None,
) -> Provenance:
    """Return what was ``told`` with what is known of the step above the image ``base``.

    ``called`` is what the container's maker called that image; ``below`` are its layers, ``layer``
    is what the step adds. To be called within :meth:`Store.referencing`.
    """
    return replace(
        told,
        packages=_packages(store, below, layer),
        base_name=_name(store, base, called),
        base_digest=base,
        engine=version(),
        diffid=layer,
    )


def with_earlier(told: Provenance, store: Store, *, base: Digest, last: Digest) -> Provenance:
    """Return what was ``told`` after what the container's commits told up to the one before.

    That is the image of the id ``last``, which the step is not above but in the place of. To be
    called within :meth:`Store.referencing`.
    """
    try:
        document = store.images.document(store.images.resolve(str(last)))
        steps = len(store.images.document(store.images.resolve(str(base))).history)
    except ImageNotFound:
        return told
    earlier = [known for known in read_provenance(document)[steps:] if known is not None]
    return replace(
        told,
        notebook=next((each.notebook for each in (told, *reversed(earlier)) if each.notebook), ""),
        cells=tuple(cell for each in (*earlier, told) for cell in each.cells),
        older_cells=sum(each.older_cells for each in (*earlier, told)),
    )


def _packages(
    store: Store, below: Sequence[Digest], layer: Digest | None
) -> tuple[PackageChange, ...] | None:
    if layer is None:
        return ()
    chain = store.layers.chain
    try:
        return tuple(changes(chain(below), chain((*below, layer))))
    except (StoreError, OSError) as error:  # a hostile tree; the commit itself is whole
        _log.info("the packages of layer %s are not known: %s", layer, error)
        return None


def _name(store: Store, base: Digest, called: str) -> str:
    """Return a name of the image, if it has one: the one it was called by, or the first."""
    try:
        image_id = store.images.manifest(base)[1].config.digest
        references = store.images.resolve(str(image_id)).references
    except ImageNotFound:
        return ""
    try:
        known = Reference.parse(called)
    except InvalidReference:
        known = None
    named = [reference for reference in references if reference.tag is not None]
    return str(known if known in named else named[0]) if named else ""
