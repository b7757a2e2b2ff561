"""What can run in the place of a kernel that runs: the kernel of another image that fits.

It looks, and makes ready; the gate (:mod:`..gate.life`) makes the container and lets it take over.
"""

from __future__ import annotations

from cellblock_engine import HOST_IMAGE, ContainerInfo, Engine, InvalidInput

from ..gate.options import CONNECTION_FILE, Successor
from ..gate.room import CONNECTION_INSIDE
from .installation import ImageKernel, find_kernels, ready_kernel
from .offers import PYTHON
from .preparation import Progress

_IPYKERNEL = {"ipykernel", "ipykernel_launcher"}


def find_successor(engine: Engine, present: ContainerInfo, name: str) -> ImageKernel:
    """Return the kernel of the image ``name`` that can take the place of the one in ``present``.

    A notebook keeps its language: after the kernel of a Python comes the image's Python's, which
    may have to be made ready first; after another one that is started by the same command. Raises
    ImageNotFound, InvalidInput, and what a run raises.
    """
    image = None if name == HOST_IMAGE else engine.image(name)
    if not _IPYKERNEL.isdisjoint(present.argv):
        (kernel,) = find_kernels(engine, image, name, present.limits, PYTHON)
        return kernel
    argv = tuple(word.replace(CONNECTION_INSIDE, CONNECTION_FILE) for word in present.argv)
    for kernel in find_kernels(engine, image, name, present.limits):
        if kernel.offer.argv == argv:
            return kernel
    raise InvalidInput(
        f"image {name} has no kernel that is started as this notebook's is, by {argv[0]}: use an "
        "image that was made of this container, or install it as a kernel of its own"
    )


def made_successor(
    engine: Engine, kernel: ImageKernel, name: str, progress: Progress | None = None
) -> Successor:
    """Return a kernel as it can be started. Raises as ``install_kernelspecs`` does."""
    ready = ready_kernel(engine, kernel, name, progress)
    image = HOST_IMAGE if ready.image is None else str(ready.image.id)
    return Successor(image, ready.offer.argv)
