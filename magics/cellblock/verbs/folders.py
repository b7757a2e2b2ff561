"""What differs, summed up by folder: few enough to be drawn, the largest looked into first."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellblock_engine import Change

_MOST_FOLDERS, _MOST_INNER = 40, 20
_ROOT = "/"


def by_folder(changes: Iterable[Change]) -> Mapping[str, Counter[str]]:
    """Return how many bytes were added (``A``), changed and deleted by folder, the most first.

    No byte is counted twice: a folder that stands beside one below it is for the rest of it.
    """
    own, total = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    below: dict[str, set[str]] = defaultdict(set)
    for change in changes:
        if change.size_bytes:
            is_folder = change.kind == "directory"  # deleted, with all that was in it
            folder = change.path if is_folder else posixpath.dirname(change.path)
            own[folder][change.change] += change.size_bytes
            for outer, name in _upwards(folder):
                total[name][change.change] += change.size_bytes
                below[outer].add(name)
            total[_ROOT][change.change] += change.size_bytes
    shown = {_ROOT: total[_ROOT]} if total else {}
    closed = list(shown)
    while closed:
        closed.sort(key=lambda name: (total[name].total(), name))
        folder = closed.pop()
        inner = sorted(below[folder], key=lambda name: (-total[name].total(), name))
        room = min(_MOST_INNER, _MOST_FOLDERS - len(shown))
        named, others = inner[:room], inner[room:]
        rest = sum((total[name] for name in others), own[folder])
        if named:
            del shown[folder]
            shown |= {name: total[name] for name in named}
            closed += named
            if rest:
                shown[folder] = rest
    return dict(sorted(shown.items(), key=lambda item: (-item[1].total(), item[0])))


def _upwards(folder: str) -> Iterable[tuple[str, str]]:
    """Yield each folder on the way to the root, behind the one that it is in."""
    while folder != _ROOT:
        outer = posixpath.dirname(folder)
        yield outer, folder
        folder = outer
