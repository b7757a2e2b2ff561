"""From an image to an installed kernelspec: found, tried, pinned, written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cellblock_engine import HOST_IMAGE, Engine, Limits

from ..gate.options import KernelOptions
from .folders import folder, write_kernelspec
from .probe import python_of
from .spec import checked_name, default_name, document


def install_kernelspec(
    engine: Engine,
    options: KernelOptions,
    place: Path | Literal["user", "system"],
    *,
    name: str | None = None,
    display_name: str | None = None,
) -> Path:
    """Install a kernelspec for an image that is in the store; return the spec's folder.

    The image's id is written down and the image held, so that a tag that moves does not change
    the kernel. With variables in ``options`` only its owner can read the kernelspec. Raises
    InvalidInput, ImageNotFound, LimitNotEnforceable, Conflict, PermissionError, and what a run
    raises.
    """
    name = checked_name(name or default_name(options.image))
    digest = None if options.image == HOST_IMAGE else str(engine.image(options.image).id)
    pinned = replace(options, image=digest or HOST_IMAGE)
    limits = Limits(memory=options.memory, cpus=options.cpus, pids=options.pids_limit)
    content = document(
        pinned,
        python=python_of(engine, pinned.image, limits, options.image),
        display_name=display_name or _display_name(options),
        image=options.image,
        digest=digest,
        store=os.fspath(engine.home),
    )
    if digest is not None:
        engine.hold_image(digest)
    return write_kernelspec(name, content, folder(place), private=bool(options.env))


def _display_name(options: KernelOptions) -> str:
    return f"Python in {options.image}" + (" (untrusted)" if options.untrusted else "")
