"""Finds the kernel that an image holds, by asking the image's own Python in a container of it."""

from __future__ import annotations

import sys
from dataclasses import replace

from cellblock_engine import HOST_IMAGE, CommandNotFound, Engine, InvalidInput

from ..gate import house
from ..gate.options import KernelOptions
from .specs import InstalledSpec, Place, install, name_for

_PYTHONS = ("python3", "python")
_ASK_S = 60.0
_LAUNCHER = ("-m", "ipykernel_launcher", "-f", "{connection_file}")


def kernel_argv(engine: Engine, image: str) -> tuple[str, ...]:
    """Return the command of the Python kernel in ``image``.

    Runs it once, off line. Raises InvalidInput for an image without Python or ipykernel,
    StartFailed and its other kinds, ImageNotFound.
    """
    if image == HOST_IMAGE:
        return (sys.executable, *_LAUNCHER)
    for python in _PYTHONS:
        try:
            asked = engine.run(
                image, [python, "-c", "import ipykernel"], entrypoint="", timeout=_ASK_S
            )
        except CommandNotFound:
            continue
        if asked.verdict is not None:
            raise asked.verdict
        if asked.exit_code:
            said = asked.stderr.decode(errors="replace").strip().splitlines()
            why = said[-1] if said else f"exit status {asked.exit_code}"
            raise InvalidInput(
                f"image {image} has no ipykernel that works ({why}): install it in the image"
            )
        return (python, *_LAUNCHER)
    raise InvalidInput(
        f"image {image} has no Python on its PATH: a kernel needs one with ipykernel"
    )


def install_kernel(
    engine: Engine,
    options: KernelOptions,
    *,
    image: str,
    name: str | None = None,
    display_name: str | None = None,
    place: Place = "user",
) -> InstalledSpec:
    """Install a kernelspec for the kernel in ``image``, which is there, and return it.

    What a start would refuse is refused now; the spec holds the image's id, so that a tag that
    moves does not change the kernel. Raises as :func:`kernel_argv`, :func:`.specs.install` and
    ``Engine.explain`` do.
    """
    held = image if image == HOST_IMAGE else str(engine.image(image).id)
    options = replace(options, image=held)
    argv = kernel_argv(engine, held)
    engine.explain(house.outline(options, argv))
    return install(
        options,
        argv,
        image=image,
        name=name or name_for(image),
        display_name=display_name or f"Python in {image}",
        place=place,
    )
