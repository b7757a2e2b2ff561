"""A diagnosis: every rung tried, and the store looked at or mended."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..layout import Layout
from ..store import Store
from . import confinement, limits, namespaces, stale, storage, surroundings
from .answers import ask
from .check import Check, Diagnosis


def diagnose(layout: Layout, store: Store, *, repair: bool) -> Diagnosis:
    """Try every rung, and find what is stale; with ``repair`` it is swept.

    Raises OSError where the store cannot be made, StoreError for what is none, Unsupported.
    """
    checks = tuple(_rungs(layout))
    if repair:
        return Diagnosis(checks, swept=stale.swept(layout, store), stale=stale.found(layout))
    return Diagnosis(checks, stale=stale.found(layout))


def _rungs(layout: Layout) -> Iterator[Check]:
    around = surroundings.look()
    run = storage.runtime_directory(layout)
    ids = namespaces.Ids.of(layout)
    has_ranges = ids.maps is None
    answers = ask(layout, ids.maps, has_run=run.status == "ok")
    yield from surroundings.all_rungs(answers, around, root=has_ranges)
    yield run
    yield from namespaces.all_rungs(answers, ids, around)
    yield from storage.all_rungs(answers, layout, root=has_ranges)
    yield from limits.all_rungs(around)
    yield from confinement.all_rungs(
        answers, single=ids.are_single, privileged=has_ranges and os.geteuid() == 0
    )
    yield from namespaces.networks(answers)
