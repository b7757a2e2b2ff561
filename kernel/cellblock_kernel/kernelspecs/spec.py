"""What a kernelspec of ours says, and how one is told from others. It touches no file.

https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cellblock_engine import InvalidInput

from ..gate.options import MODULE, GateOptions, KernelOptions, command, parse
from .offers import Offer

PROVISIONER = "cellblock"
_NAME = re.compile(r"[a-z0-9._-]{1,100}", re.IGNORECASE)
_UNFIT = re.compile(r"[^a-z0-9._-]+")


def document(
    options: KernelOptions,
    offer: Offer,
    *,
    display_name: str,
    image: str,
    digest: str | None,
    store: str,
) -> dict[str, Any]:
    """Return the content of a kernel.json: a kernel that an image offers, in a container.

    ``image`` is what the user calls it, ``digest`` the id of what runs, None for the host's;
    ``store`` is the store that has it.
    """
    return {
        "argv": command(options, offer.argv),
        "display_name": display_name,
        "language": offer.language,
        "interrupt_mode": offer.interrupt_mode,
        "metadata": {
            "debugger": offer.has_debugger and not options.untrusted,
            "supported_encryption": ["curve"],
            "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": {}},
            "cellblock": {"image": image, "digest": digest, "store": store},
        },
    }


def is_ours(found: Mapping[str, Any]) -> bool:
    """Tell whether a kernel.json, which anybody may have written, is of our making."""
    argv, metadata = found.get("argv"), found.get("metadata")
    return (
        isinstance(argv, list)
        and MODULE in argv
        and isinstance(metadata, dict)
        and isinstance(metadata.get("cellblock"), dict)
    )


def options_of(argv: Sequence[str]) -> GateOptions:
    """Return what a spec's argv asks the gate for. Raises InvalidInput."""
    return parse(argv[argv.index(MODULE) + 1 :])


def checked_name(name: str) -> str:
    """Return a kernelspec's name as Jupyter looks it up, in small letters. Raises InvalidInput."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidInput(f"kernel name {name!r} is not valid: use letters, digits, '.', '_', '-'")
    return name.lower()


def default_name(image: str) -> str:
    """Return a kernelspec's name for an image, with room behind: ``cellblock-python-3.12-slim``."""
    return f"cellblock-{_UNFIT.sub('-', image.lower()).strip('-')}"[:59]
