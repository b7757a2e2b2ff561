"""When a container is removed by itself: Docker's ``--rm``, and one policy that Docker has not."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Removal(StrEnum):
    """When a container and what was written in it go without being asked for.

    ``IF_ABANDONED`` is for a caller that means to look at, start again or remove the ended
    container itself: it stays when its command ends, and goes when the caller in the foreground
    vanishes, or closes its connection, before it was told of that. In the background nobody can
    abandon it.
    """

    NEVER = "never"
    AT_END = "at end"
    IF_ABANDONED = "if abandoned"


def recorded_removal(config: Mapping[str, Any]) -> Removal:
    """Return the policy that a container's config.json names, an older one's by ``remove``.

    Raises KeyError, ValueError.
    """
    if "remove" in config:
        return Removal.AT_END if config["remove"] is True else Removal.NEVER
    return Removal(config["removal"])
