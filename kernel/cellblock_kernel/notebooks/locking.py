"""Which image a notebook is locked to: chosen, made ready, written down, found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellblock_engine import (
    HOST_IMAGE,
    AccessDenied,
    Engine,
    Image,
    ImageNotFound,
    InvalidInput,
    InvalidReference,
    Limits,
    NotFound,
    Progress,
    Reference,
)

from ..kernelspecs.folders import read_kernelspec
from ..kernelspecs.installation import find_kernels, ready_kernel
from ..kernelspecs.preparation import RECIPE
from ..kernelspecs.preparation import Progress as PreparationProgress
from ..kernelspecs.spec import options_of
from .document import Notebook
from .lock import KEY, Difference, Lock, Pin, differences, listed

_LONGEST_NAME = 100
_NAMELESS = "localhost/nameless"  # what the engine holds images by that have no name


@dataclass(frozen=True)
class CheckedLock:
    """What has become of a notebook's lock.

    ``image`` is the locked image, None where the store has it no more; ``named`` what its name
    means now, None where it means nothing. ``differences`` are the packages of ``named`` against
    the lock's list where it is another image, else those of the locked image.
    """

    lock: Lock
    image: Image | None
    named: Image | None
    differences: tuple[Difference, ...]

    @property
    def has_moved(self) -> bool:
        """Tell whether the name means another image now."""
        wanted = self.lock.base or self.lock.pin
        return self.named is not None and self.named.id != wanted.id

    @property
    def is_repacked(self) -> bool:
        """Tell whether the name means the locked image by another manifest, as after a push."""
        pin = self.lock.pin
        return (
            self.named is not None
            and self.named.id == pin.id
            and self.named.manifest != pin.manifest
        )


@dataclass(frozen=True)
class _Choice:
    """The image that is to run, by what name, which kernel of it, and what it was made of."""

    image: Image
    name: Reference
    kernel: str
    base: Image | None


def lock_notebook(
    engine: Engine,
    path: Path,
    *,
    image: str | None = None,
    kernel: str | None = None,
    progress: PreparationProgress | None = None,
) -> Lock:
    """Write into a notebook's metadata which image it is to be run in; return that.

    It is ``image``, or without one that of the notebook's kernelspec, if that is cellblock's.
    ``kernel`` chooses one of the image's by its name. An image with a Python and no kernel is
    given ipykernel, as for :func:`.install_kernelspecs`. The rest of the file stays as it is.
    Raises InvalidInput, ImageNotFound, Conflict where the notebook was changed meanwhile,
    PreparationFailed, and what a run raises.
    """
    notebook = Notebook.read(path)
    if image is None:
        choice = _of_kernelspec(engine, notebook, path)
    else:
        choice = _of_image(engine, image, kernel, progress)
    lock = Lock(
        choice.name,
        _pin(choice.image),
        choice.image.platform,
        choice.kernel,
        None if choice.base is None else _pin(choice.base),
        listed(engine.packages(str(choice.image.id))),
    )
    notebook.replace(notebook.with_metadata(KEY, lock.metadata(notebook.metadata)))
    return lock


def check_lock(engine: Engine, path: Path) -> CheckedLock:
    """Return whether a notebook's image is here, and whether its name still means it.

    Changes and fetches nothing. Raises InvalidInput, StoreError.
    """
    lock = Lock.parse(Notebook.read(path).metadata, str(path))
    image = _found(engine, str(lock.pin.id))
    checked = CheckedLock(lock, image, _found(engine, str(lock.image)), ())
    other = image
    if checked.has_moved and checked.named is not None:
        other = checked.named
        if lock.base is not None:  # ipykernel is no difference, if it was given that too
            other = engine.derived_image(other, RECIPE) or other
    if other is None:
        return checked
    return replace(
        checked, differences=differences(lock.packages, listed(engine.packages(str(other.id))))
    )


def locked_image(engine: Engine, lock: Lock, notebook: str, progress: Progress) -> Image:
    """Return the image of a lock, and no other; it is pulled by its digest if it is not here.

    Raises ImageNotFound, PlatformNotFound, InvalidInput for a lock that contradicts itself.
    """
    there = _found(engine, str(lock.pin.id))
    if there is not None:
        return there
    name = f"the image {lock.image.familiar} ({lock.pin.id.short}) that {notebook} is locked to"
    if lock.base is not None or lock.image.name == _NAMELESS:
        raise ImageNotFound(
            f"{name} is not in the store, and no registry has it, for it was made where the lock "
            "was written: push or save it there, or lock the notebook anew"
        )
    exact = replace(lock.image, tag=None, digest=lock.pin.manifest)
    known = _found(engine, str(exact))
    if known is None:
        try:
            known = engine.pull(str(exact), progress=progress)
        except (NotFound, AccessDenied) as error:
            raise ImageNotFound(f"{name} is not in the store: {error}") from error
        if known.id != lock.pin.id:
            engine.remove_image(str(exact), force=True)
    if known.id != lock.pin.id:
        raise InvalidInput(
            f"{name} is not what its manifest {lock.pin.manifest} is of, which is "
            f"{known.id.short}: the lock was altered, lock the notebook anew"
        )
    return known


def _of_image(
    engine: Engine, name: str, wanted: str | None, progress: PreparationProgress | None
) -> _Choice:
    if name == HOST_IMAGE:
        raise InvalidInput(
            f"{name!r} is this machine as it is, which has no digest: lock to another image"
        )
    image = engine.image(name)
    first, *_ = find_kernels(engine, image, name, Limits(), wanted)
    ready = ready_kernel(engine, first, name, progress)
    runs = image if ready.image is None else ready.image
    return _Choice(
        runs, _name(name, image), ready.offer.name, None if runs.id == image.id else image
    )


def _of_kernelspec(engine: Engine, notebook: Notebook, path: Path) -> _Choice:
    """Return the image of the kernel that the notebook says it is for."""
    said = notebook.metadata.get("kernelspec")
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise InvalidInput(f"{path} names no kernel: say with --image what to lock it to")
    try:
        document = read_kernelspec(name)
    except NotFound as error:
        raise InvalidInput(
            f"the kernel {name!r} of {path} is not cellblock's: say with --image what to lock it to"
        ) from error
    facts: Mapping[str, Any] = document["metadata"]["cellblock"]
    called, digest = str(facts.get("image")), facts.get("digest")
    if digest is None:
        raise InvalidInput(
            f"the kernel {name!r} of {path} is of this machine as it is, which has no digest: "
            "say with --image what to lock it to"
        )
    image = engine.image(str(digest))
    argv = options_of([str(word) for word in document["argv"]]).argv
    kernels = find_kernels(engine, image, called, Limits())
    kernel = next((each.offer.name for each in kernels if each.offer.argv == argv), None)
    if kernel is None:
        raise InvalidInput(
            f"the kernel {name!r} of {path} is not one that its image offers: install it again, "
            "or say with --image what to lock it to"
        )
    base = _base(engine, called, image)
    return _Choice(image, _name(called, base or image), kernel, base)


def _base(engine: Engine, called: str, image: Image) -> Image | None:
    """Return what an image was made of, if that is still what it is called."""
    base = _found(engine, called)
    made = None if base is None else engine.derived_image(base, RECIPE)
    return base if made is not None and made.id == image.id else None


def _name(called: str, image: Image) -> Reference:
    """Return a name of an image: the one it was called by, else one of those it has."""
    try:
        asked = Reference.parse(called)
    except InvalidReference:
        asked = None
    if asked is not None and asked in image.references:
        return asked
    named = [each for each in image.references if each.tag is not None]
    return min(named or image.references or (Reference.parse(f"{_NAMELESS}@{image.manifest}"),))


def _pin(image: Image) -> Pin:
    return Pin(image.manifest, image.id)


def _found(engine: Engine, name: str) -> Image | None:
    try:
        return engine.image(name)
    except (ImageNotFound, InvalidReference):
        return None
