"""The packages in a container, as its image's trees and what was written in them show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..assembly import Tree
from ..store.containers import ContainerConfig, upper
from ..stored import require_readable
from .package import Package
from .search import packages


def container_packages(
    config: ContainerConfig, trees: Iterable[Tree], directory: Path
) -> tuple[Package, ...]:
    """Return what is installed in the container in ``directory``, but for what is mounted in it.

    Raises Unsupported where the writes are in memory, StoreError, OSError.
    """
    require_readable(config, "its packages cannot be read")
    found: set[Package] = set()
    for number, tree in enumerate(trees):
        target = "/" + tree.target.strip("/") if tree.target.strip("/") else ""
        shown = packages((*tree.lowers, upper(directory, number) / "fs"))
        found |= {replace(package, place=target + package.place) for package in shown}
    return tuple(sorted(found))
