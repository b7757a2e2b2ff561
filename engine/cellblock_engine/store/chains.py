"""What a stack of layers needs beyond the layers themselves.

Layers are unpacked alone, each into its own directory. Four things only the stack can tell:

- Directories that a layer implies (``tmp/x`` without ``tmp``) would show in the merged view with
  default attributes instead of those that a layer below describes.
- Hard links to a file of a layer below (layer.md, "Hardlinks") have nothing to link to.
- Whiteouts in a directory that no layer below has too: overlayfs merges nothing there, and would
  list them as files that cannot be opened.
- A layer whose root is opaque hides all layers below it, which overlayfs does not ask about.

The first three go into one small fix-up layer on top of the stack, which is made once and kept;
the last says where the stack starts.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from ..errors import InvalidLayer
from . import owners
from .directories import Directories, is_opaque, is_whiteout

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME = "chain.json"


@dataclass(frozen=True)
class LayerRecord:
    """What unpacking a layer found out; paths are as in the tree, ``size_bytes`` sums up files."""

    size_bytes: int
    entries: int
    implied: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    whiteouts: tuple[str, ...]
    emptied: tuple[str, ...]
    opaque: bool


@dataclass(frozen=True)
class ChainRecord:
    """What is known of a stack.

    ``layers`` are diffIDs, bottom first; ``first`` counts those at the bottom that do not show;
    ``fixed`` tells of a fix-up layer.
    """

    layers: tuple[str, ...]
    first: int
    fixed: bool


def read(directory: Path) -> ChainRecord | None:
    """Return what :func:`build` wrote to ``directory``, or None if it did not."""
    try:
        known = json.loads((directory / _NAME).read_bytes())
    except FileNotFoundError:
        return None
    return ChainRecord(tuple(known["layers"]), known["first"], known["fixed"])


def build(
    layers: Sequence[tuple[Path, LayerRecord]], diffids: Sequence[str], target: Path
) -> ChainRecord:
    """Describe the stack (bottom first) in the directory ``target``, with ``fs`` if need be.

    Raises InvalidLayer where a hard link leads nowhere.
    """
    first = max((n for n, (_, record) in enumerate(layers) if record.opaque), default=0)
    with ExitStack() as stack:
        merged = _Merged(layers[first:], stack)
        directories = merged.lost_attributes() | merged.bare_whiteouts()
        links = merged.lost_links()
        fixed = bool(directories or links)
        if fixed:
            _write_fixes(merged, directories, links, target / "fs")
    record = ChainRecord(tuple(diffids), first, fixed)
    with open(target / _NAME, "x") as file:
        json.dump(asdict(record), file)
        file.flush()
        os.fsync(file.fileno())
    return record


class _Layer:
    """One layer of the stack, open."""

    def __init__(self, path: Path, record: LayerRecord, stack: ExitStack) -> None:
        fd = os.open(path, _DIRECTORY)
        stack.callback(os.close, fd)
        self.directories = Directories(fd)
        stack.callback(self.directories.close)
        self.implied = {os.fsencode(p) for p in record.implied}
        self.links = {os.fsencode(p): os.fsencode(t) for p, t in record.links}
        self.whiteouts = {os.fsencode(p) for p in record.whiteouts}
        self.emptied = {os.fsencode(p) for p in record.emptied}

    def find(self, path: bytes) -> tuple[os.stat_result | None, bool]:
        """Return what is at ``path`` here (None: nothing), and whether lower layers show there.

        They do not below an opaque directory or below, or at, anything but a directory. At one
        that an opaque marker alone implies they do: the marker speaks of what is in it.
        """
        parts = path.split(b"/") if path else []
        shows = True
        found: os.stat_result | None = None
        for depth in range(len(parts) + 1):
            real = b"/".join(parts[:depth])
            fd = self.directories.exact(real)
            if fd is None:
                obstacle = self._status(real)
                if obstacle is None:
                    return None, shows
                return (obstacle if depth == len(parts) else None), False
            last = depth == len(parts)
            if depth and is_opaque(fd) and not (last and real in self.emptied):
                shows = False
            found = os.fstat(fd) if last else None
        return found, shows

    def _status(self, path: bytes) -> os.stat_result | None:
        head, _, name = path.rpartition(b"/")
        fd = self.directories.exact(head)
        if fd is None:
            return None
        try:
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


class _Merged:
    """The view that overlayfs will give of the stack."""

    def __init__(self, layers: Sequence[tuple[Path, LayerRecord]], stack: ExitStack) -> None:
        self.layers = [_Layer(path, record, stack) for path, record in layers]

    def occurrences(
        self, path: bytes, top: int | None = None
    ) -> Iterator[tuple[int, os.stat_result]]:
        """Yield number and status of each layer's part in ``path``, from the top one down."""
        for number in range(len(self.layers) if top is None else top)[::-1]:
            status, shows = self.layers[number].find(path)
            if status is not None:
                yield number, status
            if not shows:
                return

    def attributes(self, path: bytes) -> os.stat_result:
        """Return the attributes of a directory: from the topmost layer that describes it."""
        return self._described(path)[1]

    def describing(self, path: bytes) -> int:
        """Return the descriptor of that layer's directory; open until the next call."""
        fd = self.layers[self._described(path)[0]].directories.exact(path)
        assert fd is not None
        return fd

    def _described(self, path: bytes) -> tuple[int, os.stat_result]:
        topmost = None
        for number, status in self.occurrences(path):
            if not stat.S_ISDIR(status.st_mode):
                break
            topmost = topmost or (number, status)
            if path not in self.layers[number].implied:
                return number, status
        assert topmost is not None
        return topmost

    def lost_attributes(self) -> set[bytes]:
        """Return the directories that would show with other attributes than described."""
        lost = set()
        for path in set().union(*(layer.implied for layer in self.layers)):
            number, shown = next(self.occurrences(path), (0, None))
            if shown is None or not stat.S_ISDIR(shown.st_mode):
                continue
            if path in self.layers[number].implied:
                meant = self.attributes(path)
                if _signature(path, meant) != _signature(path, shown) or _xattrs(
                    self.describing(path)
                ):
                    lost.add(path)
        return lost

    def bare_whiteouts(self) -> set[bytes]:
        """Return the directories whose whiteouts would show, as only one layer has them.

        The root is always merged with a container's upper.
        """
        bare = set()
        for path in set().union(*(layer.whiteouts for layer in self.layers)) - {b""}:
            parts = list(takewhile(_is_directory, self.occurrences(path)))
            if len(parts) == 1 and path in self.layers[parts[0][0]].whiteouts:
                bare.add(path)
        return bare

    def lost_links(self) -> dict[bytes, tuple[int, bytes]]:
        """Return, for each link across layers that shows, the layer and path of its file."""
        lost = {}
        for number, layer in enumerate(self.layers):
            for path, target in layer.links.items():
                shown = next(self.occurrences(path), None)
                if shown is not None and shown[0] == number and is_whiteout(shown[1]):
                    lost[path] = self._source(number, path, target)
        return lost

    def _source(self, top: int, path: bytes, target: bytes) -> tuple[int, bytes]:
        for _ in range(len(self.layers)):  # a link may lead to one that leads further down
            number, status = next(self.occurrences(target, top), (0, None))
            if status is None or stat.S_ISDIR(status.st_mode):
                break
            if not is_whiteout(status):
                return number, target
            if target not in self.layers[number].links:
                break
            top, target = number, self.layers[number].links[target]
        raise InvalidLayer(f"the hard link {path[-80:]!r} of the image leads to no file of it")


def _write_fixes(
    merged: _Merged, lost: set[bytes], links: dict[bytes, tuple[int, bytes]], target: Path
) -> None:
    """Make the fix-up layer: the directories as described, and hard links into lower layers.

    Layers are never written to, so sharing their inodes is safe.
    """
    target.mkdir(mode=0o755)
    fd = os.open(target, _DIRECTORY)
    fixes = Directories(fd)
    try:
        wanted = {b""}
        for path in (*lost, *(path.rpartition(b"/")[0] for path in links)):
            above = path
            while above not in wanted:
                wanted.add(above)
                above = above.rpartition(b"/")[0]
        for path in sorted(wanted - {b""}):
            parent, real, name = fixes.parent(path)
            fixes.make(parent, real, name, None)
        for path, (number, source) in links.items():
            parent, _, name = fixes.parent(path)
            head, _, source_name = source.rpartition(b"/")
            source_fd = merged.layers[number].directories.exact(head)
            assert source_fd is not None
            os.link(
                source_name, name, src_dir_fd=source_fd, dst_dir_fd=parent, follow_symlinks=False
            )
        for path in sorted(wanted, reverse=True):
            directory = fixes.exact(path)
            assert directory is not None
            _copy_attributes(merged.attributes(path), merged.describing(path), directory)
    finally:
        fixes.close()
        os.close(fd)
    os.sync()  # the layer is small; unlike syncfs through ctypes, this lets other threads run


def _copy_attributes(status: os.stat_result, source: int, target: int) -> None:
    owners.copy(source, target)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for key, value in _xattrs(source).items():
        os.setxattr(target, key, value)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _is_directory(occurrence: tuple[int, os.stat_result]) -> bool:
    return stat.S_ISDIR(occurrence[1].st_mode)


def _signature(path: bytes, status: os.stat_result) -> tuple[int, int, int, int]:
    # The time of the root is the upper's in every container: no reason for a layer more.
    mtime_ns = status.st_mtime_ns if path else 0
    return status.st_mode, status.st_uid, status.st_gid, mtime_ns


def _xattrs(fd: int) -> dict[str, bytes]:
    """Return the extended attributes of a directory but overlayfs's own."""
    return {
        key: os.getxattr(fd, key)
        for key in os.listxattr(fd)
        if not key.startswith(("user.overlay.", "trusted.", "security.selinux"))
    }
