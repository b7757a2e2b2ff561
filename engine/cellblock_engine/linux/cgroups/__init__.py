"""Control groups: what can be limited for a process, and a group that does it.

:func:`discover` says, for one process, which controllers are to be had below its own groups and
why others are not; the answer makes groups. cgroups(7).
"""

from __future__ import annotations

from .group import Controllers, Counters, Group, Limits, Usage, refusal
from .hierarchy import discover
from .v1 import remove_stale

__all__ = [
    "Controllers",
    "Counters",
    "Group",
    "Limits",
    "Usage",
    "discover",
    "refusal",
    "remove_stale",
]
