"""What an installed package is, and how two sets of them differ; no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["python", "debian", "alpine"]
KINDS: tuple[Kind, ...] = ("python", "debian", "alpine")
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@dataclass(frozen=True, order=True)
class Package:
    """An installed package.

    A Python package's name is normalised as in PEP 503; ``version`` is empty where its files do
    not tell. ``place`` is the directory, or the database, that tells of it.
    """

    kind: Kind
    name: str
    version: str
    place: str


@dataclass(frozen=True)
class PackageChange:
    """A package that was added, removed or changed; ``old`` and ``new`` are its versions.

    Of an added one ``old`` is None, of a removed one ``new``.
    """

    change: Literal["added", "removed", "changed"]
    kind: Kind
    name: str
    old: str | None
    new: str | None
    place: str

    @property
    def short(self) -> str:
        """It in short: ``+pandas 2.2``, ``-six 1.16``, ``~numpy 1.26->2.0``."""
        versions = "->".join(filter(None, (self.old, self.new)))
        return f"{_SIGNS[self.change]}{self.name} {versions}".rstrip()


def package_changes(before: Iterable[Package], after: Iterable[Package]) -> list[PackageChange]:
    """Return what is to be done to the packages ``before`` to get those ``after``, by name.

    What is in another place is another package.
    """
    were, are = set(before), set(after)
    gone, new = _versions(were - are), _versions(are - were)
    found: list[PackageChange] = []
    for key in sorted(gone.keys() | new.keys()):
        kind, name, place = key
        old_versions, new_versions = gone.get(key, []), new.get(key, [])
        if len(old_versions) == len(new_versions) == 1:
            old, now = old_versions[0], new_versions[0]
            found.append(PackageChange("changed", kind, name, old, now, place))
            continue
        found += (PackageChange("removed", kind, name, old, None, place) for old in old_versions)
        found += (PackageChange("added", kind, name, None, now, place) for now in new_versions)
    return found


def _versions(packages: Iterable[Package]) -> dict[tuple[Kind, str, str], list[str]]:
    """Return versions by kind, name and place: a broken installation may have two."""
    found: dict[tuple[Kind, str, str], list[str]] = {}
    for package in sorted(packages):
        found.setdefault((package.kind, package.name, package.place), []).append(package.version)
    return found
