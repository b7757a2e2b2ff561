"""Control groups: what can be limited for a process, and a group that does it.

:func:`discover` says, for one process, which controllers are to be had below its own groups and
why others are not; the answer makes groups. cgroups(7).
"""

from __future__ import annotations

from .group import Controllers, Counters, Entrance, Group, Limits, Usage, refusal
from .hierarchy import discover, granted, settle
from .leftovers import remove_stale
from .processors import listed
from .unified import SCOPE_PREFIX, Delegable
from .v2 import SHOWN_AT

__all__ = [
    "SCOPE_PREFIX",
    "SHOWN_AT",
    "Controllers",
    "Counters",
    "Delegable",
    "Entrance",
    "Group",
    "Limits",
    "Usage",
    "discover",
    "granted",
    "listed",
    "refusal",
    "remove_stale",
    "settle",
]
