"""A diagnosis: every rung tried, and the store looked at or mended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

from ..errors import CellblockError
from ..layout import Layout
from ..store import Store
from ..store.locks import Kind, locked
from . import confinement, limits, namespaces, stale, storage, surroundings
from .answers import ask
from .check import Check, Damage, Diagnosis
from .content import Examination
from .faults import Fault

_WAIT_S = 10.0
_OF_STORE = ("store", "ids")
"""Rungs without which nobody can look into a store."""


def diagnose(layout: Layout, store: Store, *, repair: bool, quick: bool) -> Diagnosis:
    """Try every rung, and look through the store; with ``repair`` it is swept and mended.

    ``quick`` leaves out the contents of blobs and layers. Raises StoreError for a directory that
    is no store, or a newer one, Conflict for one that is in use, and Unsupported.
    """
    checks = tuple(_in_turn(_rungs(layout, store)))
    if any(check.name in _OF_STORE and check.status == "missing" for check in checks):
        return Diagnosis(checks)
    swept = stale.swept(layout, store) if repair else ()
    examination = Examination(layout, store, quick=quick)
    with _alone(layout) if repair else store.referencing():
        found = list(examination.faults())
        damage = tuple(_mended(fault, store) if repair else fault.told() for fault in found)
    return Diagnosis(checks, stale.found(layout), swept, damage, examination.told())


def _alone(layout: Layout) -> AbstractContextManager[None]:
    return locked(layout.gc_lock, Kind.EXCLUSIVE, timeout_s=_WAIT_S, what="the store")


def _mended(fault: Fault, store: Store) -> Damage:
    told = fault.told()
    try:
        done = fault.mend(store)
    except (CellblockError, OSError) as error:
        return replace(told, remedy=f"{told.remedy}: that failed, {error}")
    if not done:
        return told
    left = "" if "doctor --repair" in told.remedy else told.remedy
    return replace(told, mended=done, lost=told.lost if left else "", remedy=left)


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


def _rungs(layout: Layout, opened: Store) -> Iterator[Check]:
    around = surroundings.look()
    store, run = storage.store(layout), storage.runtime_directory(layout)
    ids = namespaces.Ids.of(opened)
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
