"""What can be wrong in a store, one class a kind: how it is told, and how it is mended.

What can be had again (blobs, layers, chains) is removed or made anew; what may be somebody's work
is set aside, and never removed. Whoever mends holds the store alone.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from ..errors import CellblockError
from ..layout import Layout
from ..oci.digest import Digest
from ..oci.reference import Reference
from ..private import make_private
from ..store import Store, chains
from ..store.references import References
from .check import Damage

_ATTEMPTS = 1000


class Fault(ABC):
    """One thing that is wrong."""

    @abstractmethod
    def told(self) -> Damage:
        """Return it in words, not mended."""

    @abstractmethod
    def mend(self, store: Store) -> str:
        """Mend it; return what was done, nothing where it cannot be. Raises what that raises."""


@dataclass(frozen=True)
class Stray(Fault):
    """A file or directory of a place of the store's that is none of its kind."""

    path: Path
    kind: str
    lost: str = "nothing"

    def told(self) -> Damage:
        """As the class says."""
        return Damage(f"{self.path} is no {self.kind}", self.lost, "doctor --repair")

    def mend(self, store: Store) -> str:
        """Set it aside."""
        return set_aside(store.layout, self.path)


@dataclass(frozen=True)
class Unreadable(Fault):
    """A record that says nothing any more, and that can be had again."""

    path: Path
    what: str
    lost: str
    remedy: str = "doctor --repair"

    def told(self) -> Damage:
        """As the class says."""
        return Damage(f"{self.what} {self.path.name} is damaged", self.lost, self.remedy)

    def mend(self, store: Store) -> str:
        """Remove it."""
        if self.path.is_dir():
            store.inside.remove(self.path)
        else:
            self.path.unlink(missing_ok=True)
        return "removed"


@dataclass(frozen=True)
class DamagedBlob(Fault):
    """A blob with another content than its digest says; ``images`` need it."""

    path: Path
    images: tuple[Reference, ...]

    def told(self) -> Damage:
        """As the class says."""
        what = f"blob {self.path.name[:12]} has another content than it had"
        if not self.images:
            return Damage(what, "nothing: no image needs it", "doctor --repair")
        return Damage(what, f"pushes and saves of {_listed(self.images)}", again(self.images))

    def mend(self, store: Store) -> str:  # noqa: ARG002 - as others do
        """Remove it."""
        self.path.unlink(missing_ok=True)
        return "removed"


@dataclass(frozen=True)
class AbsentBlob(Fault):
    """A blob that an image's manifest names, of a layer that cannot be packed again."""

    digest: Digest
    images: tuple[Reference, ...]

    def told(self) -> Damage:
        """As the class says."""
        what = f"blob {self.digest.short} is not there"
        return Damage(what, f"pushes and saves of {_listed(self.images)}", again(self.images))

    def mend(self, store: Store) -> str:  # noqa: ARG002 - as others do
        """Nothing can be done without the registry."""
        return ""


@dataclass(frozen=True)
class DamagedLayer(Fault):
    """A layer that is missing or changed; ``archive`` is the whole blob it was made from, if any.

    One that ``is_usable`` has files and a record, though not those that it had. ``running`` are
    containers that have it as their files now.
    """

    diffid: Digest
    how: str
    is_usable: bool
    images: tuple[Reference, ...]
    archive: tuple[Path, str] | None
    running: tuple[str, ...]

    def told(self) -> Damage:
        """As the class says."""
        lost = f"containers of {_listed(self.images)}" if self.images else "nothing"
        remedy = "doctor --repair"
        if self.running:
            remedy = f"stop {', '.join(self.running)}, then doctor --repair"
        elif self.archive is None and self.images:
            remedy = again(self.images)
        return Damage(f"layer {self.diffid.short}: {self.how}", lost, remedy)

    def mend(self, store: Store) -> str:
        """Unpack it again; without its archive, what is left of one that cannot be used goes."""
        if self.running:
            return ""
        if self.archive is not None:
            store.layers.renew(*self.archive, self.diffid)
            self._remove_chains(store)
            return "unpacked again"
        if self.is_usable and self.images:
            return ""
        self._remove_chains(store)
        done = "its images' names are removed" if self.images else "removed"
        directory = store.layout.layers / self.diffid.hex
        References(store.layout, store.staging).remove(self.images)
        return f"{done}, {set_aside(store.layout, directory)}" if directory.exists() else done

    def _remove_chains(self, store: Store) -> None:
        """Remove what was made of the layer; it is made again when needed."""
        for path in store.layout.chains.glob("*"):
            record = chains.read(path)
            if record is not None and str(self.diffid) in record.layers:
                store.inside.remove(path)


@dataclass(frozen=True)
class BrokenImage(Fault):
    """References whose image is not there in full, nor can be made of what is."""

    images: tuple[Reference, ...]
    why: str

    def told(self) -> Damage:
        """As the class says."""
        what = f"image {_listed(self.images)}: {self.why}"
        return Damage(what, "the image", f"pull or make anew: {_listed(self.images)}")

    def mend(self, store: Store) -> str:
        """Forget the references: the next pull then gets what is missing."""
        References(store.layout, store.staging).remove(self.images)
        return "its name is removed"


@dataclass(frozen=True)
class DamagedContainer(Fault):
    """A container whose config cannot be read, so that nothing is known of it."""

    directory: Path
    why: str

    def told(self) -> Damage:
        """As the class says."""
        what = f"container {self.directory.name[:12]}: {self.why}"
        lost = "the container, and prune: what it needs is not known"
        return Damage(what, lost, "doctor --repair sets it aside, with the files written in it")

    def mend(self, store: Store) -> str:
        """Set it aside."""
        return set_aside(store.layout, self.directory)


@dataclass(frozen=True)
class Nameless(Fault):
    """A container whose name leads nowhere, or elsewhere."""

    identifier: str
    name: str

    def told(self) -> Damage:
        """As the class says."""
        what = f"container {self.identifier[:12]}: its name {self.name!r} does not lead to it"
        return Damage(what, "the container by its name", "doctor --repair")

    def mend(self, store: Store) -> str:
        """Let the name lead to it, unless it leads to another that is there."""
        link = store.layout.names / self.name
        if link.is_symlink():
            if (store.layout.containers / link.readlink()).exists():
                return ""
            link.unlink()
        elif link.exists():
            set_aside(store.layout, link)
        link.symlink_to(self.identifier)
        return "it does again"


@dataclass(frozen=True)
class Exposed(Fault):
    """A directory of the store that others may enter or change."""

    path: Path
    mode: int
    wanted: int

    def told(self) -> Damage:
        """As the class says."""
        what = f"{self.path} has mode {self.mode:04o}"
        return Damage(what, "its being this user's alone", "doctor --repair")

    def mend(self, store: Store) -> str:  # noqa: ARG002 - as others do
        """Let others in no more."""
        self.path.chmod(self.wanted)
        return f"{self.wanted:04o} now"


def again(images: tuple[Reference, ...]) -> str:
    """Return how images are had anew."""
    return f"rmi {' '.join(map(str, images))}, then pull or make anew"


def set_aside(layout: Layout, path: Path) -> str:
    """Move what is there out of the way; return where, in words. Raises OSError."""
    make_private(layout.home, layout.damaged)
    for number in range(_ATTEMPTS):
        target = layout.damaged / (path.name[:80] + (f".{number}" if number else ""))
        if not os.path.lexists(target):
            path.rename(target)
            return f"set aside as {target}"
    raise CellblockError(f"{layout.damaged} is full: look through it, and remove it")


def _listed(images: tuple[Reference, ...]) -> str:
    return ", ".join(map(str, images))
