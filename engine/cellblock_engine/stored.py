"""Whether what a container has written is in the store, for whoever is to read it there."""

from __future__ import annotations

from .errors import Unsupported
from .store.containers import ContainerConfig


def require_stored(config: ContainerConfig, failing: str) -> None:
    """Raise Unsupported for a container whose files are not all in the store.

    ``failing`` is what it cannot do for it: "become an image".
    """
    if config.image_id is None:
        raise Unsupported(
            f"container {config.name} cannot {failing}: its files are this machine's own; use a "
            "container of an image, or make one of this Python (freeze)"
        )
    if config.storage_bytes is not None:
        raise Unsupported(
            f"container {config.name} cannot {failing}: what it writes is in memory; use a "
            "container without --storage-limit"
        )


def require_readable(config: ContainerConfig, failing: str) -> None:
    """Raise Unsupported for a container that writes to memory, where ``failing``."""
    if config.storage_bytes is not None:
        raise Unsupported(
            f"what container {config.name} writes is in its own memory (--storage-limit), where "
            f"{failing}: run it without"
        )
