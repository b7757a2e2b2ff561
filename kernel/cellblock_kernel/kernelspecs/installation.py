"""From an image to installed kernelspecs: found, tried, made ready, pinned, written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cellblock_engine import HOST_IMAGE, Engine, Image, InvalidInput, Limits

from ..gate.options import KernelOptions
from . import offers
from .folders import folder, refuse_anothers, write_kernelspec
from .offers import PYTHON, Offer
from .preparation import Preparation, Progress, prepare
from .probe import Findings, probe
from .spec import checked_name, default_name, document


@dataclass(frozen=True)
class ImageKernel:
    """A kernel, and the image that has it, or is to have it (None: the host's)."""

    offer: Offer
    image: Image | None
    is_ready: bool = True


def install_kernelspecs(
    engine: Engine,
    options: KernelOptions,
    place: Path | Literal["user", "system"],
    *,
    kernel: str | None = None,
    name: str | None = None,
    display_name: str | None = None,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Install kernelspecs for the kernels of an image in the store; return the specs' folders.

    ``kernel`` chooses one of them by its name in the image. An image with Python and no kernel,
    or one whose ``python3`` is chosen, is given ipykernel (:func:`.preparation.prepare`). The
    Python's is called ``name``, others of the same image ``name-THEIRS``. The id of the image is
    written down and the image held, so that a tag that moves does not change the kernel. With
    variables in ``options`` only its owner can read a kernelspec. Raises InvalidInput,
    ImageNotFound, LimitNotEnforceable, PreparationFailed, Conflict, PermissionError, and what a
    run raises.
    """
    base, into = checked_name(name or default_name(options.image)), folder(place)
    image = None if options.image == HOST_IMAGE else engine.image(options.image)
    chosen = find_kernels(engine, image, options.image, options.wanted, kernel)
    alone = name is not None and len(chosen) == 1
    named = {
        base if alone or each.offer.name == PYTHON else f"{base}-{each.offer.name}": each
        for each in chosen
    }
    for spec_name in named:
        refuse_anothers(checked_name(spec_name), into)
    ready = {
        spec_name: ready_kernel(engine, each, options.image, progress)
        for spec_name, each in named.items()
    }
    written = []
    for spec_name, each in ready.items():
        content = document(
            replace(options, image=_id(each.image), env=(*each.offer.env, *options.env)),
            each.offer,
            display_name=_title(each.offer, options, display_name),
            image=options.image,
            digest=None if each.image is None else str(each.image.id),
            store=os.fspath(engine.home),
        )
        if each.image is not None:
            engine.hold_image(str(each.image.id))
        written.append(write_kernelspec(spec_name, content, into, private=bool(options.env)))
    return tuple(written)


def find_kernels(
    engine: Engine, image: Image | None, name: str, limits: Limits, wanted: str | None = None
) -> tuple[ImageKernel, ...]:
    """Return the kernels of an image that the user calls ``name``, or the one that is wanted.

    The first is its Python's, if it has one. Raises InvalidInput, and as :func:`probe` does.
    """
    found = probe(engine, _id(image), limits, name)
    return _chosen(found, wanted and wanted.lower(), image, name)


def ready_kernel(
    engine: Engine, kernel: ImageKernel, name: str, progress: Progress | None = None
) -> ImageKernel:
    """Return a kernel that can be run, with the image that has it. Raises as a preparation does."""
    return kernel if kernel.is_ready else _prepared(engine, kernel, name, progress)


def _chosen(
    found: Findings, wanted: str | None, image: Image | None, name: str
) -> tuple[ImageKernel, ...]:
    """Return what is to be installed. Raises InvalidInput."""
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


def _prepared(
    engine: Engine, kernel: ImageKernel, name: str, progress: Progress | None
) -> ImageKernel:
    """Return the kernel of a Python, with ipykernel. Raises as :func:`prepare` does."""
    if kernel.image is None:
        raise InvalidInput(f"image {name} has no ipykernel: pip install ipykernel")
    python = kernel.offer.argv[0]
    return ImageKernel(
        kernel.offer, prepare(engine, kernel.image, python, name, progress or _unseen)
    )


def _id(image: Image | None) -> str:
    return HOST_IMAGE if image is None else str(image.id)


def _title(offer: Offer, options: KernelOptions, wanted: str | None) -> str:
    if wanted is None:
        untrusted = " (untrusted)" if options.untrusted else ""
        return f"{offer.display_name} in {options.image}{untrusted}"
    return wanted if offer.name == PYTHON else f"{offer.display_name} in {wanted}"


def _unseen(step: Preparation) -> None:
    """Show nothing of a preparation."""
