"""Installs, lists and removes the kernelspecs of kernels in containers; touches no others.

A spec's argv is the gate's command line (:mod:`..gate.options`), so its options can be read back.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jupyter_client.kernelspec import KernelSpecManager

from cellblock_engine import CellblockError, Conflict, InvalidInput, NotFound

from ..gate.options import MODULE, KernelOptions, command, parse

PROVISIONER = "cellblock"
_LOGOS = Path(__file__).with_name("logos")
_NAME = re.compile(r"[a-z0-9._-]{1,100}", re.IGNORECASE)
_SPEC = "kernel.json"

Place = Literal["user", "sys-prefix"] | Path
"""Where a spec goes: the user's own, this Python's prefix, or another prefix."""


@dataclass(frozen=True)
class InstalledSpec:
    """A kernelspec of ours. ``image`` is as it was named, ``options.image`` what is started."""

    name: str
    display_name: str
    image: str
    options: KernelOptions
    argv: tuple[str, ...]
    directory: Path


def name_for(image: str) -> str:
    """Return the kernel name for an image that was given none."""
    return "cellblock-" + re.sub(r"[^a-z0-9._-]+", "-", image.lower()).strip("-")


def install(
    options: KernelOptions,
    argv: Sequence[str],
    *,
    image: str,
    name: str,
    display_name: str,
    language: str = "python",
    place: Place = "user",
) -> InstalledSpec:
    """Install a spec for the kernel ``argv`` in such a container; one of ours is replaced.

    ``image`` is what people call the image. Raises InvalidInput, Conflict for a spec of somebody
    else, OSError.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"kernel name {name!r} is not valid: use letters, digits, '.', '_' and '-' only"
        )
    specs = KernelSpecManager()
    directory = _destination(specs, name, place)
    if directory.exists() and _read(name, directory) is None:
        raise Conflict(
            f"kernel {name} is there already, and not cellblock's: choose another --name"
        )
    document: dict[str, Any] = {
        "argv": command(options, argv),
        "display_name": display_name,
        "language": language,
        "interrupt_mode": "signal",
        "metadata": {
            "debugger": language == "python",
            "supported_encryption": ["curve"],
            "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": {}},
            "cellblock": {"image": image},
        },
    }
    with tempfile.TemporaryDirectory() as made:
        shutil.copytree(_LOGOS, made, dirs_exist_ok=True)
        (Path(made) / _SPEC).write_text(json.dumps(document, indent=1), encoding="utf-8")
        Path(made).chmod(0o755)
        specs.install_kernel_spec(made, name, prefix=_prefix(place), user=place == "user")
    (directory / _SPEC).chmod(0o600 if options.env else 0o644)  # values may be secrets
    return InstalledSpec(name, display_name, image, options, tuple(argv), directory)


def installed_kernels() -> tuple[InstalledSpec, ...]:
    """Return the specs of ours that front ends of this environment see, by name."""
    found = (
        _read(name, Path(directory))
        for name, directory in KernelSpecManager().find_kernel_specs().items()
    )
    return tuple(sorted((spec for spec in found if spec is not None), key=lambda spec: spec.name))


def remove_kernel(name: str) -> Path:
    """Remove a spec of ours; return where it was. Raises NotFound, Conflict, OSError."""
    found = KernelSpecManager().find_kernel_specs().get(name.lower())
    if found is None:
        raise NotFound(f"kernel {name!r} is not there: see kernel list")
    directory = Path(found)
    if _read(name, directory) is None:
        raise Conflict(f"kernel {name} is not cellblock's: jupyter kernelspec remove removes it")
    shutil.rmtree(directory)
    return directory


def _destination(specs: KernelSpecManager, name: str, place: Place) -> Path:
    if place == "user":
        return Path(specs.user_kernel_dir) / name.lower()
    return Path(_prefix(place) or "") / "share" / "jupyter" / "kernels" / name.lower()


def _prefix(place: Place) -> str | None:
    if place == "user":
        return None
    return sys.prefix if place == "sys-prefix" else str(place)


def _read(name: str, directory: Path) -> InstalledSpec | None:
    """Return what a spec says, None for one that is not ours or is damaged."""
    try:
        document = json.loads((directory / _SPEC).read_text(encoding="utf-8"))
        words = document["argv"]
        options = parse(words[words.index(MODULE) + 1 :])
        return InstalledSpec(
            name=name,
            display_name=str(document["display_name"]),
            image=str(document["metadata"]["cellblock"]["image"]),
            options=options.kernel,
            argv=options.argv,
            directory=directory,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CellblockError):
        return None
