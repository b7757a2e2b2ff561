"""What a directory tree is, as data that two trees can be compared by."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Node:
    """One name in a tree: all that a container could see of it, but inode numbers."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    device: int
    target: str
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[bytes, ...]


def tree(root: Path) -> dict[bytes, Node]:
    """Return every name below ``root`` (and ``b"."``, itself), with its hard link group."""
    groups: dict[tuple[int, int], list[bytes]] = {}
    statuses: dict[bytes, os.stat_result] = {b".": root.stat()}
    base = os.fsencode(root)
    for directory, directories, files in os.walk(base):
        for name in directories + files:
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, base)
            statuses[relative] = os.lstat(path)
            if not stat.S_ISDIR(statuses[relative].st_mode):
                key = statuses[relative].st_dev, statuses[relative].st_ino
                groups.setdefault(key, []).append(relative)
    return {
        relative: _node(os.path.join(base, relative), status, groups)
        for relative, status in statuses.items()
    }


def stacked(
    layers: Sequence[Path], mountpoint: Path, *, marks: str = "userxattr"
) -> dict[bytes, Node]:
    """Return the tree that layers in overlayfs form, bottom first, show; ``marks`` says whose.

    Ours have their marks in user attributes, Docker's in trusted ones.
    """
    mountpoint.mkdir()
    options = ",".join(filter(None, ["ro", marks, f"lowerdir={':'.join(map(str, layers[::-1]))}"]))
    subprocess.run(["mount", "-t", "overlay", "none", mountpoint, "-o", options], check=True)
    try:
        return tree(mountpoint)
    finally:
        subprocess.run(["umount", mountpoint], check=True)
        mountpoint.rmdir()


def differences(ours: dict[bytes, Node], theirs: dict[bytes, Node]) -> list[str]:
    """Return what is not the same in two trees, a line each."""
    found = [f"only ours: {name!r}" for name in sorted(ours.keys() - theirs.keys())]
    found += [f"only theirs: {name!r}" for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[name], theirs[name]
        for field in Node.__dataclass_fields__:
            if getattr(mine, field) != getattr(other, field):
                found.append(f"{name!r} {field}: {getattr(mine, field)} {getattr(other, field)}")
    return found


def _node(path: bytes, status: os.stat_result, groups: dict[tuple[int, int], list[bytes]]) -> Node:
    kind = stat.S_IFMT(status.st_mode)
    is_file, is_link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
    return Node(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if is_file or is_link else 0,
        device=status.st_rdev,
        target=os.fsdecode(os.readlink(path)) if is_link else "",
        content=_hash(path) if is_file else "",
        xattrs=tuple(
            sorted(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in os.listxattr(path, follow_symlinks=False)
            )
        ),
        links=tuple(sorted(groups.get((status.st_dev, status.st_ino), ()))),
    )


def _hash(path: bytes) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
