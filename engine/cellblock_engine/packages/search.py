"""The packages in what an overlay of directories shows: which files are looked at, and how many.

Nothing is mounted and no link is followed, so of a directory that two paths lead to only one
counts. Python's packages are looked for in every ``site-packages`` and ``dist-packages``, wherever
an environment may be, but for where none is: caches, documentation, the kernel's own file systems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..errors import StoreError
from ..store.views import Node, Views
from . import databases
from .package import Kind, Package, PackageChange, package_changes

_PYTHON_FOLDERS = (b"site-packages", b"dist-packages")
_DPKG, _DPKG_PARTS = b"var/lib/dpkg/status", b"var/lib/dpkg/status.d"
_APK = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_DATABASES = frozenset((_DPKG, *_APK))
_NOT_BELOW = frozenset(
    b"proc sys dev run tmp boot var/cache var/tmp var/log var/lib/apt usr/share usr/include "
    b"usr/src usr/lib/modules lib/modules".split()
)
_NOT_NAMED = frozenset((b"__pycache__", b"node_modules", b".git", b".cache"))
_MAX_DEPTH = 24
_MAX_PACKAGES = 100_000
_MAX_METADATA_BYTES = 64 << 10  # the names are at its head
_MAX_DATABASE_BYTES = 64 << 20


def packages(stack: Sequence[Path]) -> list[Package]:
    """Return what is installed in the view of these directories, the bottom one first, in order.

    Raises StoreError for too much to look at, OSError.
    """
    with ExitStack() as held:
        views = Views(held)
        return _sorted(_found(views, views.root(stack), None))


def changes(before: Sequence[Path], after: Sequence[Path]) -> list[PackageChange]:
    """Return how the packages of two views differ; where these are the same, nothing is read.

    Raises as :func:`packages` does.
    """
    with ExitStack() as held:
        views = Views(held)
        old, new = views.root(before), views.root(after)
        return package_changes(
            _sorted(_found(views, old, new)),
            _sorted(_found(views, new, old)),
        )


def _sorted(found: Iterable[Package]) -> list[Package]:
    known: set[Package] = set()
    for package in found:
        known.add(package)
        if len(known) > _MAX_PACKAGES:
            raise StoreError(f"more than {_MAX_PACKAGES} packages would have to be listed")
    return sorted(known)


def _found(views: Views, root: Node, other: Node | None) -> Iterator[Package]:
    """Yield the packages below ``root``, but for what is the same in ``other``."""
    todo: list[tuple[bytes, Node, Node | None]] = [(b"", root, other)]
    while todo:
        path, node, beside = todo.pop()
        if beside is not None and node.merged == beside.merged:
            continue
        children = views.children(node, path)
        others = views.children(beside, path) if beside is not None and beside.merged else {}
        is_python = path.rpartition(b"/")[2] in _PYTHON_FOLDERS
        for name, child in children.items():
            below = path + b"/" + name if path else name
            same = others.get(name)
            if is_python:
                if databases.is_python_information(_text(name)) and not _is_same(child, same):
                    yield from _python(views, child, below)
            elif child.merged:
                if not _is_passed_over(below, name):
                    todo.append((below, child, same))
            elif _is_database(path, below) and not _is_same(child, same):
                yield from _listed(path, below, views.read(child, below, _MAX_DATABASE_BYTES + 1))


def _is_passed_over(path: bytes, name: bytes) -> bool:
    return path in _NOT_BELOW or name in _NOT_NAMED or path.count(b"/") >= _MAX_DEPTH


def _is_same(node: Node, other: Node | None) -> bool:
    """Tell whether both are one file, or one directory of the same trees."""
    if other is None:
        return False
    if node.merged or other.merged:
        return node.merged == other.merged
    one, two = node.status, other.status
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)


def _python(views: Views, node: Node, path: bytes) -> Iterator[Package]:
    """Yield the package that a folder of information tells of, or a file in its place."""
    place, _, folder = path.rpartition(b"/")
    metadata = b""
    if not node.merged:
        metadata = views.read(node, path, _MAX_METADATA_BYTES) or b""
    else:
        inside = views.children(node, path)
        for name in (b"METADATA", b"PKG-INFO"):
            if name in inside:
                file = path + b"/" + name
                metadata = views.read(inside[name], file, _MAX_METADATA_BYTES) or b""
                break
    if named := databases.python_package(_text(folder), metadata):
        yield Package("python", *named, _text(b"/" + place))


def _is_database(folder: bytes, path: bytes) -> bool:
    return path in _DATABASES or folder == _DPKG_PARTS


def _listed(folder: bytes, path: bytes, content: bytes | None) -> Iterator[Package]:
    """Yield the packages that a database lists."""
    if content is None:
        return
    if len(content) > _MAX_DATABASE_BYTES:
        raise StoreError(f"{_text(path)!r} is larger than 64 MiB: no list of packages is")
    kind: Kind
    if path in _APK:
        kind, found, place = "alpine", databases.alpine_packages(content), path
    else:
        is_part = folder == _DPKG_PARTS
        found = databases.debian_packages(content, every=is_part)
        kind, place = "debian", folder if is_part else path
    for name, version in found:
        yield Package(kind, name, version, _text(b"/" + place))


def _text(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
