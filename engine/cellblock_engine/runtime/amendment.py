"""The one change that a container's config knows once it is written: other limits.

Whoever holds the container's lock makes it: its monitor while it runs, else the caller.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..linux.cgroups import Limits
from ..store.room import raise_if_full

_CONFIG = "config.json"  # has the limits by the names of their fields
_DRAFT = ".config.json"


def recorded_limits(directory: str) -> Limits:
    """Return the limits that can change as the config says them now; of others, none.

    What something weaker stands in for is none of a control group's. Raises OSError, ValueError.
    """
    plain = _read(directory)
    limits = Limits(**{name: plain.get(name) for name in Limits._fields})
    return limits.without(plain.get("replaced_limits", ()))


@contextmanager
def amended(directory: str, limits: Limits) -> Iterator[None]:
    """Write ``limits`` into the config if the block succeeds; what else it says stays.

    The room for it is taken before the block. Raises StoreFull, OSError, ValueError; then nothing
    changes.
    """
    draft = f"{directory}/{_DRAFT}"
    changed = {name: value for name, value in limits._asdict().items() if value is not None}
    plain = _read(directory) | changed
    try:
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(plain, file)
            file.flush()
            os.fsync(file.fileno())
        yield
        os.rename(draft, f"{directory}/{_CONFIG}")
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        if isinstance(error, OSError):
            raise_if_full(error, "a container's new limits in the store")
        raise


def _read(directory: str) -> dict[str, Any]:
    with open(f"{directory}/{_CONFIG}", encoding="utf-8") as file:
        plain: dict[str, Any] = json.load(file)
    return plain
