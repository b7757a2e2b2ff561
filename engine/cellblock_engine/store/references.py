"""What references name: one JSON file each, called by a hash of the canonical reference.

The file says which manifest it is; everything else is in the blobs. It is renamed into place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from ..errors import StoreError
from ..layout import Layout
from ..oci.digest import Digest
from ..oci.reference import Reference
from ..private import make_private
from .staging import Staging, sync_directory

_T = TypeVar("_T")


class Named(NamedTuple):
    """A reference and its manifest; ``served``: its registry is known to have that."""

    reference: Reference
    manifest: Digest
    served: bool


class References:
    """The references of one store. Thread-safe; several processes may work on one store."""

    def __init__(self, layout: Layout, staging: Staging) -> None:
        self._layout, self._staging = layout, staging

    def all(self) -> dict[Reference, Digest]:
        """Return the manifest of every reference. Raises StoreError for a damaged one."""
        return {named.reference: named.manifest for named in self.named()}

    def named(self) -> Iterator[Named]:
        """Yield every reference with all that is known of it. Raises StoreError."""
        directory = self._layout.references
        for path in directory.iterdir() if directory.is_dir() else ():
            try:
                known = json.loads(path.read_bytes())
                reference = Reference.parse(known["reference"])
                manifest = Digest.parse(known["manifest"])
            except FileNotFoundError:
                continue  # removed since
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{path} is damaged: remove it and pull again") from error
            yield Named(reference, manifest, known.get("served") is True)

    def steadily(self, look: Callable[[dict[Reference, Digest]], _T]) -> _T:
        """Return what ``look`` finds in all the references.

        Others may remove an image between its reference and its manifest being read: what they
        left is looked at then. What is missing and still named is the StoreError that it is.
        """
        while True:
            references = self.all()
            try:
                return look(references)
            except StoreError:
                if self.all() == references:
                    raise

    def publish(self, reference: Reference, manifest: Digest, *, served: bool = False) -> None:
        """Let a reference name a manifest, whatever it has named before. Raises StoreError."""
        make_private(self._layout.home, self._layout.references)
        content = {"reference": str(reference), "manifest": str(manifest), "served": served}
        self._staging.publish_json(self._layout.reference(reference), content)

    def remove(self, references: Iterable[Reference]) -> None:
        """Forget references; that is on the disk before anything that they named goes."""
        for reference in references:
            self._layout.reference(reference).unlink(missing_ok=True)
        sync_directory(self._layout.references)
