"""The documents of an image that is made of layers alone; no I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from .config import HistoryEntry, ImageConfig
from .derivation import Derived, derive
from .digest import Digest
from .manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest
from .platform import Platform


def compose(
    platform: Platform,
    config: ImageConfig,
    layers: Sequence[tuple[Descriptor, HistoryEntry]],
    created: datetime,
) -> Derived:
    """Return the image of these uncompressed layers, the bottom one first, and their steps.

    Of ``config`` the environment, the command, the working directory and the labels are taken.
    Raises as :func:`.derivation.derive` does.
    """
    document: dict[str, object] = {
        "os": platform.os,
        "architecture": platform.architecture,
        "config": {
            "Env": list(config.env),
            "Cmd": list(config.cmd),
            "WorkingDir": config.working_dir,
            "Labels": dict(config.labels),
        },
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    if platform.variant:
        document["variant"] = platform.variant
    raw = json.dumps(document).encode()
    made = Derived(raw, b"")
    below: tuple[Descriptor, ...] = ()
    for layer, step in layers:
        descriptor = Descriptor(OCI_CONFIG, Digest.of(made.config), len(made.config))
        base = Manifest(OCI_MANIFEST, descriptor, below)
        made = derive(base, made.config, layer, replace(step, created=created))
        below = (*below, layer)
    return made
