"""A diagnosis: every rung tried, and the store looked at or mended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from ..layout import Layout
from ..store import Store
from . import confinement, limits, namespaces, stale, storage, surroundings
from .answers import ask
from .check import Check, Diagnosis


def diagnose(layout: Layout, store: Store, *, repair: bool) -> Diagnosis:
    """Try every rung, and find what is stale; with ``repair`` it is swept.

    Raises StoreError for a directory that is no store, or a newer one, and Unsupported.
    """
    checks = tuple(_in_turn(_rungs(layout)))
    if repair:
        return Diagnosis(checks, swept=stale.swept(layout, store), stale=stale.found(layout))
    return Diagnosis(checks, stale=stale.found(layout))


def _in_turn(checks: Iterator[Check]) -> Iterator[Check]:
    """Say of what fails for want of user namespaces that these are to be had first."""
    wanting = None
    for check in checks:
        if check.name == "user namespaces" and check.status == "missing":
            wanting = check.found
        elif check.status != "ok" and check.found == wanting:
            yield replace(check, remedy="get user namespaces first")
            continue
        yield check


def _rungs(layout: Layout) -> Iterator[Check]:
    around = surroundings.look()
    store, run = storage.store(layout), storage.runtime_directory(layout)
    ids = namespaces.Ids.of(layout)
    has_ranges = ids.maps is None
    has_store, has_run = store.status != "missing", run.status != "missing"
    answers = ask(layout, ids.maps, has_store=has_store, has_run=has_run)
    yield from surroundings.all_rungs(answers, around, root=has_ranges)
    yield from (store, run)
    yield from namespaces.all_rungs(answers, ids, around)
    yield from storage.all_rungs(answers, root=has_ranges)
    yield from limits.all_rungs(around)
    yield from confinement.all_rungs(
        answers, single=ids.are_single, privileged=has_ranges and os.geteuid() == 0
    )
    yield from namespaces.networks(answers)
