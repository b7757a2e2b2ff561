"""The verbs, each declared once for the command line and the magics."""

from __future__ import annotations

from collections.abc import Mapping

from .archives import VERBS as ARCHIVE_VERBS
from .cleaning import CONTAINER, IMAGE
from .containers import VERBS as CONTAINER_VERBS
from .declaration import Verb
from .freezing import VERBS as FREEZING_VERBS
from .group import Group
from .images import VERBS as IMAGE_VERBS
from .kernel import KERNEL
from .login import VERBS as LOGIN_VERBS
from .notebooks import VERBS as NOTEBOOK_VERBS
from .packages import VERBS as PACKAGES_VERBS
from .provenance import VERBS as PROVENANCE_VERBS
from .reading import VERBS as READING_VERBS
from .run import VERBS as RUN_VERBS
from .search import VERBS as SEARCH_VERBS
from .system import SYSTEM
from .system import VERBS as SYSTEM_VERBS
from .usage import VERBS as USAGE_VERBS

VERBS: Mapping[str, Verb | Group] = {
    entry.name: entry
    for entry in (
        *RUN_VERBS,
        *CONTAINER_VERBS,
        *USAGE_VERBS,
        *IMAGE_VERBS,
        *FREEZING_VERBS,
        *READING_VERBS,
        *PACKAGES_VERBS,
        *PROVENANCE_VERBS,
        *ARCHIVE_VERBS,
        *NOTEBOOK_VERBS,
        *SEARCH_VERBS,
        *LOGIN_VERBS,
        *SYSTEM_VERBS,
        KERNEL,
        CONTAINER,
        IMAGE,
        SYSTEM,
    )
}
CELL_VERBS: Mapping[str, Verb] = {
    verb.name: verb for verb in RUN_VERBS if verb.name in ("run", "exec")
}
