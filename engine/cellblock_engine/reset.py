"""Everything of one store, removed: what it holds, what runs in it, what it left in memory.

Not the credentials and the config file, which are the user's, nor what others have put into the
store's directory. It reads no config and no image, so that a damaged store can be reset too.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .errors import Conflict, StoreError
from .ids import id_maps
from .layout import Layout
from .linux import idmaps
from .linux.idmaps import IdMaps
from .log import Log
from .runtime import launcher, state, wire
from .runtime.attached import await_exit
from .runtime.sweep import Remove, settle
from .store import formats
from .store.beneath import disk_bytes
from .store.inside import Inside
from .store.locks import Kind, locked
from .store.trees import remove_tree

_WAIT_S = 10.0
_ENDING_S = 10.0
_LOOK_AGAIN_S = 0.02
_log = Log(__name__)


@dataclass(frozen=True)
class Reset:
    """What was removed, and what of others was found in the store's directory and left."""

    containers: int
    images: int
    layers: int
    freed_bytes: int
    left: tuple[str, ...] = ()


def reset(layout: Layout, *, force: bool) -> Reset:
    """Remove the store; running containers are ended first if ``force``.

    Killed in the middle, it can be asked again. Raises StoreError for a directory that does not
    look like a store, Conflict for running containers and while the store is in use, OSError.
    """
    if not _is_store(layout):
        launcher.dismiss_all(layout)
        remove_tree(layout.run)
        return Reset(0, 0, 0, 0)
    with locked(layout.gc_lock, Kind.EXCLUSIVE, timeout_s=_WAIT_S, what="the store"):
        if not force and (running := _running(layout)):
            raise Conflict(
                f"containers are running ({', '.join(_names(layout, running))}): stop them first, "
                "or reset by force (-f)"
            )
        inside = Inside(partial(_maps, layout))
        containers = [name for name in _entries(layout.containers) if not name.startswith(".")]
        launcher.dismiss_all(layout)
        _end(layout, inside.remove)
        removed = Reset(
            len(containers),
            len(_entries(layout.references)),
            len(_entries(layout.layers)),
            inside.run(_taken_bytes, layout),
            formats.foreign(layout),
        )
        # The mark and the lock go last: until then it is a store, and nobody else's. Before them
        # goes what says which ids the files have that are still to be removed.
        last = (layout.ids, layout.format, layout.gc_lock)
        for name in sorted(formats.ENTRIES - {path.name for path in last}):
            inside.remove(layout.home / name)
        for path in (layout.run, *last):
            remove_tree(path)
    with suppress(OSError):  # it has other files, or is a mount point or a link
        layout.home.rmdir()
    _log.info("reset the store %s, %d bytes", layout.home, removed.freed_bytes)
    return removed


def _maps(layout: Layout) -> IdMaps | None:
    try:
        return id_maps(layout)
    except StoreError:  # they are not known, or not to be had any more: as many as there are
        return idmaps.subordinate() or idmaps.single()


def _taken_bytes(layout: Layout) -> int:
    return sum(disk_bytes(layout.home / name) for name in formats.ENTRIES)


def _is_store(layout: Layout) -> bool:
    """Tell a store from nothing. Raises StoreError for what is neither."""
    if found := formats.read(layout):
        formats.check(layout, found)
        return True
    others = formats.foreign(layout)
    if formats.is_unmarked(layout) and not others:
        return True
    if present := others or tuple(_entries(layout.home)):
        raise StoreError(
            f"{layout.home} does not look like a store, it has {present[0]!r} and no file "
            "'format': nothing was removed; see CELLBLOCK_HOME and store.home"
        )
    return False


def _running(layout: Layout) -> list[Path]:
    directories = (layout.containers / name for name in _entries(layout.containers))
    return [path for path in directories if state.is_live(os.fspath(path))]


def _names(layout: Layout, running: list[Path]) -> list[str]:
    """Return what people call these containers."""
    called = {}
    for name in _entries(layout.names):
        with suppress(OSError):
            called[os.fspath((layout.names / name).readlink())] = name
    return [called.get(path.name, path.name[:12]) for path in running]


def _end(layout: Layout, remove: Remove) -> None:
    """End all containers, and undo what killed monitors have left. Raises Conflict."""
    deadline = time.monotonic() + _ENDING_S
    while running := _running(layout):
        if time.monotonic() > deadline:
            names = ", ".join(_names(layout, running))
            raise Conflict(f"containers do not end ({names}): kill their monitors, then try again")
        for path in running:
            with suppress(OSError):  # it is only starting, or ending already
                _stop(layout, path.name)
        time.sleep(_LOOK_AGAIN_S)
    for name in _entries(layout.containers):
        directory, socket = layout.containers / name, layout.monitor_socket(name)
        while not settle(os.fspath(directory), os.fspath(socket), remove):
            if time.monotonic() > deadline:
                raise Conflict(f"processes of container {name[:12]} do not end: try again")
            time.sleep(_LOOK_AGAIN_S)


def _stop(layout: Layout, identifier: str) -> None:
    path = os.fspath(layout.monitor_socket(identifier))
    with wire.connect(path, timeout_s=_ENDING_S) as sock:
        wire.send(sock, {"op": "stop", "grace_s": 0})
        await_exit(sock, _ENDING_S)


def _entries(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are what is wanted
    except (FileNotFoundError, NotADirectoryError):
        return []
