"""From an image to installed kernelspecs: found, tried, made ready, pinned, written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cellblock_engine import HOST_IMAGE, Engine, Limits

from ..gate.options import KernelOptions
from .choice import choose, id_of, made_ready
from .folders import folder, refuse_anothers, write_kernelspec
from .offers import PYTHON, Offer
from .preparation import Progress
from .probe import probe
from .spec import checked_name, default_name, document


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
    limits = Limits(memory=options.memory, cpus=options.cpus, pids=options.pids_limit)
    found = probe(engine, id_of(image), limits, options.image)
    chosen = choose(found, kernel and kernel.lower(), image, options.image)
    alone = name is not None and len(chosen) == 1
    named = {
        base if alone or each.offer.name == PYTHON else f"{base}-{each.offer.name}": each
        for each in chosen
    }
    for spec_name in named:
        refuse_anothers(checked_name(spec_name), into)
    ready = {
        spec_name: made_ready(engine, each, options.image, progress)
        for spec_name, each in named.items()
    }
    written = []
    for spec_name, each in ready.items():
        content = document(
            replace(options, image=id_of(each.image), env=(*each.offer.env, *options.env)),
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


def _title(offer: Offer, options: KernelOptions, wanted: str | None) -> str:
    if wanted is None:
        untrusted = " (untrusted)" if options.untrusted else ""
        return f"{offer.display_name} in {options.image}{untrusted}"
    return wanted if offer.name == PYTHON else f"{offer.display_name} in {wanted}"
