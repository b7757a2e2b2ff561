"""Which kernels an image has that can be had of it, and how one that is wanted is made ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cellblock_engine import HOST_IMAGE, Engine, Image, InvalidInput

from . import offers
from .offers import PYTHON, Offer
from .preparation import Preparation, Progress, prepare
from .probe import Findings


@dataclass(frozen=True)
class ImageKernel:
    """A kernel, and the image that has it (None: the host's), or will once it is made ready."""

    offer: Offer
    image: Image | None
    is_ready: bool = True


def choose(
    found: Findings, wanted: str | None, image: Image | None, name: str
) -> tuple[ImageKernel, ...]:
    """Return the kernel that is wanted, or all that there are; ``name`` is the user's word.

    ``image`` is None for the host's. Raises InvalidInput.
    """
    listed = offers.listed(found.listing, name)
    known = listed.keys() | ({PYTHON} if found.has_ipykernel else set())
    names = sorted(known, key=lambda kernel: (kernel != PYTHON, kernel))
    if wanted is None:
        if not names and found.python is None:
            raise InvalidInput(
                f"image {name} has no Python and no other kernel: use one that has either"
            )
        names = names or [PYTHON]
    elif wanted in names or (wanted == PYTHON and found.python is not None):
        names = [wanted]
    else:
        has = ", ".join(names) or "none"
        raise InvalidInput(f"image {name} has no kernel {wanted}: it has {has}")
    return tuple(_kernel(each, found, listed, image, name) for each in names)


def _kernel(
    kernel: str,
    found: Findings,
    listed: Mapping[str, offers.Listed],
    image: Image | None,
    name: str,
) -> ImageKernel:
    if found.python is not None and kernel == PYTHON:
        if found.has_ipykernel:
            return ImageKernel(offers.of_python(found.python), image)
        if kernel not in listed:
            return ImageKernel(offers.of_python(found.python), image, is_ready=False)
    return ImageKernel(offers.read(kernel, listed[kernel], name), image)


def made_ready(
    engine: Engine, kernel: ImageKernel, name: str, progress: Progress | None = None
) -> ImageKernel:
    """Return it as it can be started: a Python's with ipykernel. Raises as :func:`prepare` does."""
    if kernel.is_ready:
        return kernel
    if kernel.image is None:
        raise InvalidInput(f"image {name} has no ipykernel: pip install ipykernel")
    python = kernel.offer.argv[0]
    return ImageKernel(
        kernel.offer, prepare(engine, kernel.image, python, name, progress or _unseen)
    )


def id_of(image: Image | None) -> str:
    """Return what a container of it is made of."""
    return HOST_IMAGE if image is None else str(image.id)


def _unseen(step: Preparation) -> None:
    """Show nothing of a preparation."""
