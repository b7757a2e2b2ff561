"""The one change that a container's config knows once it is written: other limits.

A running container's monitor makes it, or whoever holds its lock while no monitor does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..linux.cgroups import Limits
from ..store.room import raise_if_full

_CONFIG = "config.json"
_DRAFT = ".config.json"


@contextmanager
def amended(directory: str, limits: Limits) -> Iterator[None]:
    """Write ``limits`` into the config if the block succeeds; what else it says stays.

    The room for it is taken before the block. Raises StoreFull, OSError; then nothing changes.
    """
    path, draft = f"{directory}/{_CONFIG}", f"{directory}/{_DRAFT}"
    with open(path, encoding="utf-8") as file:
        plain = json.load(file)
    plain |= {
        "memory_bytes": limits.memory_bytes,
        "cpus": limits.cpus,
        "pids": limits.pids,
        "memory_swap_bytes": limits.memory_swap_bytes,
    }
    try:
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(plain, file)
            file.flush()
            os.fsync(file.fileno())
        yield
        os.rename(draft, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        if isinstance(error, OSError):
            raise_if_full(error, "a container's new limits in the store")
        raise
