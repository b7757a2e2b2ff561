"""Builds the skeleton of the host image, and knows from a record whether it is still good.

A skeleton is named by the hash of its content, built in staging and renamed into place, so any
number of builders may work at once and the last record wins. A record belongs to what was asked
for; it lists the inodes and change times of what was looked at. Directories are compared each
time, the files in them at least once a minute.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..layout import Layout
from ..linux import syscalls
from ..linux.idmaps import is_single_here
from ..private import make_private
from ..store.room import raise_if_full
from ..store.staging import Staging
from . import etc
from .interpreter import Places

FORMAT = 1  # part of every record's name: another version's skeletons are not this one's
ROOT = "root"
_FILES_EVERY_S = 60.0
_EMPTY = ("dev", "home", "media", "mnt", "opt", "proc", "run", "run/lock", "srv", "sys")
_VAR = ("var", "var/cache", "var/lib", "var/log")
_STICKY = ("tmp", "var/tmp")
_VAR_LINKS = (("/var/run", "../run"), ("/var/lock", "../run/lock"))

# What package tools and Jupyter keep in a prefix, relative to it. The first are hidden wherever
# they are found, the second when they have credentials in them.
_HIDDEN = ("etc/jupyter", "share/jupyter/runtime", ".netrc", ".pypirc", ".aws", ".ssh")
_HIDDEN_IF_SECRET = ("pip.conf", "etc/pip.conf", "condarc", ".condarc", "etc/npmrc")

_Stamp = tuple[int, int]  # inode, change time in ns: the latter moves with content, mode and owner


@dataclass
class _Seen:
    """What a build looked at, for the record, and what it made, for the name."""

    directories: dict[str, _Stamp] = field(default_factory=dict)
    files: dict[str, _Stamp] = field(default_factory=dict)
    entries: int = 0
    size_bytes: int = 0
    hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def made(self, kind: str, path: str, mode: int, content: bytes) -> None:
        head = json.dumps([kind, path, mode, len(content)]).encode()
        self.hash.update(head + b"\n" + content)


def skeleton(layout: Layout, root: Path, places: Places) -> Path:
    """Return a directory that has the skeleton as ``root`` and the masks as ``mask-N``.

    ``mask-N`` belongs to tree N of ``places`` and is missing where it hides nothing. Raises
    StoreFull, OSError.
    """
    asked = json.dumps([FORMAT, str(root), os.geteuid(), places.trees, places.links])
    name = hashlib.sha256(asked.encode(errors="surrogateescape")).hexdigest()[:32]
    record = layout.host_images / f"{name}.json"
    found = _recorded(record)
    if found is not None:
        return found
    try:
        return _build(layout, root, places, record)
    except OSError as error:
        raise_if_full(error, f"the host image in {layout.host_images}")
        raise


def _recorded(record: Path) -> Path | None:
    """Return the recorded skeleton if all that it was made from is as it was."""
    try:
        document = json.loads(record.read_bytes())
        found = record.parent / str(document["skeleton"])
        if not found.is_dir() or not _unchanged(document["directories"]):
            return None
        # The files' list is a file of its own: reading it takes longer than all the rest.
        files = _files_of(record)
        if 0 <= time.time() - files.stat().st_mtime < _FILES_EVERY_S:
            return found
        if not _unchanged(json.loads(files.read_bytes())):
            return None
        os.utime(files)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # removed, or cut short by a power loss
    return found


def _unchanged(stamps: dict[str, list[int]]) -> bool:
    try:
        return all(list(_stamp(os.lstat(path))) == stamp for path, stamp in stamps.items())
    except OSError:
        return False


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_ctime_ns


def _build(layout: Layout, root: Path, places: Places, record: Path) -> Path:
    make_private(layout.home, layout.host_images)
    staging, seen = Staging(layout.staging), _Seen()
    with staging.directory() as place:
        place.chmod(0o755)
        tree = place / ROOT
        _make_directories(tree, places, seen)
        _copy_etc(root / "etc", tree / "etc", seen)
        for number, prefix_tree in enumerate(places.trees):
            _mask(place / f"mask-{number}", root, prefix_tree, places.prefixes, seen)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.syncfs(fd)  # complete before it has its name, also after a power loss
        finally:
            os.close(fd)
        target = layout.host_images / seen.hash.hexdigest()[:32]
        try:
            place.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else another builder made the same one, or it was there before
    staging.publish_json(_files_of(record), seen.files)
    staging.publish_json(record, {"skeleton": target.name, "directories": seen.directories})
    return target


def _files_of(record: Path) -> Path:
    return record.with_suffix(".files")


def _make_directories(tree: Path, places: Places, seen: _Seen) -> None:
    _directory(tree, 0o755)
    for name in (*_EMPTY, *_VAR):
        _directory(tree / name, 0o755)
    for name in _STICKY:
        _directory(tree / name, 0o1777)
    _directory(tree / "root", 0o755)  # where commands start, whatever user they run as
    for target in places.trees:
        _directory(Path(f"{tree}{target}"), 0o755)
    for path, target in (*_VAR_LINKS, *places.links):
        link = Path(f"{tree}{path}")
        _directory(link.parent, 0o755)
        link.symlink_to(target)
    seen.made("places", "", 0, json.dumps([FORMAT, places.trees, places.links]).encode())


def _directory(path: Path, mode: int) -> None:
    """Make a directory and those above it; the mode is of the new ones, whatever the umask."""
    if not path.is_dir():
        if not path.parent.is_dir():
            _directory(path.parent, 0o755)
        path.mkdir()
        path.chmod(mode)


def _copy_etc(source: Path, target: Path, seen: _Seen) -> None:
    """Copy what may be seen; what this user cannot read is left out like what others cannot."""
    _directory(target, 0o755)
    todo = [""]
    while todo:
        relative = todo.pop()
        directory = source / relative
        seen.directories[str(directory)] = _stamp(directory.lstat())
        for entry in _sorted_entries(directory):
            seen.entries += 1
            if seen.entries > etc.MAX_ENTRIES:
                return
            name = f"{relative}/{entry.name}" if relative else entry.name
            if _copy_entry(entry, name, target / name, seen):
                todo.append(name)


def _sorted_entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.ENOENT, errno.ENOTDIR):
            raise


def _copy_entry(entry: os.DirEntry[str], relative: str, target: Path, seen: _Seen) -> bool:
    """Copy one entry; return True for a directory that is to be entered."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode):
        if not etc.may_enter(relative, status.st_mode):
            seen.files[entry.path] = _stamp(status)
            return False
        _directory(target, 0o755)
        seen.made("directory", relative, 0o755, b"")
        return True
    if stat.S_ISLNK(status.st_mode) and etc.may_link(relative):
        content = str(Path(entry.path).readlink())
        target.symlink_to(content)
        seen.made("link", relative, 0, os.fsencode(content))
    elif stat.S_ISREG(status.st_mode):
        seen.files[entry.path] = _stamp(status)
        if etc.may_copy(relative, status.st_mode, status.st_size):
            _copy_file(entry.path, relative, target, seen)
    return False


def _copy_file(source: str, relative: str, target: Path, seen: _Seen) -> None:
    content = _read(source)
    visible = None if content is None else etc.rewrite(relative, content)
    if visible is None or seen.size_bytes + len(visible) > etc.MAX_TOTAL_BYTES:
        return
    status = Path(source).lstat()
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    target.write_bytes(visible)
    target.chmod(mode)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
    seen.size_bytes += len(visible)
    seen.made("file", relative, mode, visible)


def _read(path: str) -> bytes | None:
    """Return a regular file's content; None where it is something else, or not for this user."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.ENOENT, errno.ELOOP, errno.EPERM):
            return None
        raise
    with os.fdopen(fd, "rb") as stream:
        status = os.fstat(fd)
        # Asked of the descriptor: the name may have come to mean another file.
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IROTH:
            return None
        content = stream.read(etc.MAX_FILE_BYTES + 1)
    return content if len(content) <= etc.MAX_FILE_BYTES else None


def _mask(mask: Path, root: Path, tree: str, prefixes: tuple[str, ...], seen: _Seen) -> None:
    """Make the layer that hides from ``tree`` what may hold credentials, if there is any."""
    base = Path(f"{str(root).rstrip('/')}{tree}")
    inside = {tree, f"{tree}/local", *(p for p in prefixes if p.startswith(tree + "/"))}
    for prefix in sorted(inside):
        for name in (*_HIDDEN, *_HIDDEN_IF_SECRET):
            hidden = base / f"{prefix}/{name}"[len(tree) + 1 :]
            there = next(above for above in hidden.parents if above.is_dir())
            seen.directories[str(there)] = _stamp(there.stat())
            hidden = there.resolve() / hidden.relative_to(there)
            # Below a link that leads out of the tree nothing is visible inside.
            if _must_hide(hidden, seen, always=name in _HIDDEN) and hidden.is_relative_to(base):
                _whiteout(mask, base, hidden.relative_to(base))
                seen.made("hidden", str(hidden), 0, tree.encode())


def _must_hide(path: Path, seen: _Seen, *, always: bool) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    seen.files[str(path)] = _stamp(status)
    if always or not stat.S_ISREG(status.st_mode):
        return True
    content = _read(str(path))
    return content is None or etc.holds_credentials(content)


def _whiteout(mask: Path, tree: Path, relative: Path) -> None:
    """Hide ``relative`` of ``tree``; the mask's directories look like the tree's own."""
    for above in [*reversed(relative.parents)]:
        made = mask / above
        if not made.is_dir():
            status = (tree / above).stat()
            made.mkdir()
            if os.geteuid() == 0 and not is_single_here():
                os.chown(made, status.st_uid, status.st_gid)
            made.chmod(stat.S_IMODE(status.st_mode))
    # A character device 0/0 (Documentation/filesystems/overlayfs.rst); anybody may make it.
    os.mknod(mask / relative, stat.S_IFCHR, os.makedev(0, 0))
