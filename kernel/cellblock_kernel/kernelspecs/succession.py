"""What can run in the place of a kernel that runs: the kernel of another image that fits.

It looks, and makes ready; the gate (:mod:`..gate.life`) makes the container and lets it take over.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from cellblock_engine import HOST_IMAGE, ContainerInfo, Engine, Image, InvalidInput

from ..gate.options import CONNECTION_FILE, Successor
from ..gate.room import CONNECTION_INSIDE
from . import offers
from .choice import ImageKernel, choose, id_of, made_ready
from .offers import PYTHON
from .preparation import Progress
from .probe import probe

_IPYKERNEL = {"ipykernel", "ipykernel_launcher"}


def find_successor(engine: Engine, present: ContainerInfo, name: str) -> ImageKernel:
    """Return the kernel of the image ``name`` that can take the place of the one in ``present``.

    A notebook keeps its language: after the kernel of a Python comes the image's Python's, which
    may have to be made ready first; after another one that is started by the same command. Raises
    ImageNotFound, InvalidInput, and what a run raises.
    """
    image = None if name == HOST_IMAGE else engine.image(name)
    found = probe(engine, id_of(image), present.limits, name)
    if _IPYKERNEL.isdisjoint(present.argv):
        return _same(present, offers.listed(found.listing, name), image, name)
    (kernel,) = choose(found, PYTHON, image, name)
    return kernel


def made_successor(
    engine: Engine, kernel: ImageKernel, name: str, progress: Progress | None = None
) -> Successor:
    """Return a kernel as it can be started. Raises as ``install_kernelspecs`` does."""
    ready = made_ready(engine, kernel, name, progress)
    return Successor(id_of(ready.image), ready.offer.argv)


def _same(
    present: ContainerInfo, listed: Mapping[str, offers.Listed], image: Image | None, name: str
) -> ImageKernel:
    argv = tuple(word.replace(CONNECTION_INSIDE, CONNECTION_FILE) for word in present.argv)
    for each, found in listed.items():
        with suppress(InvalidInput):  # what is refused is not what runs
            offer = offers.read(each, found, name)
            if offer.argv == argv:
                return ImageKernel(offer, image)
    raise InvalidInput(
        f"image {name} has no kernel that is started as this notebook's is, by {argv[0]}: use an "
        "image that was made of this container, or install it as a kernel of its own"
    )
