"""What killed processes left in a store: found without a change, or swept."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..layout import Layout
from ..runtime import state, sweep
from ..store import Store
from ..store.locks import Kind, try_lock

_ENDING_S = 3.0  # for processes of a killed monitor, which the kernel is still ending
_LOOK_AGAIN_S = 0.02


def found(layout: Layout) -> tuple[str, ...]:
    """Return what is stale, in words. Changes nothing."""
    return tuple(_found(layout))


def swept(layout: Layout, store: Store) -> tuple[str, ...]:
    """Sweep; return what was stale and is gone now, in words."""
    before = found(layout)
    store.sweep()
    for identifier in _names(layout.containers):
        _settle(layout, store, identifier)
    for name in _names(layout.run):
        if _is_orphan(layout, layout.run / name):
            (layout.run / name).unlink(missing_ok=True)
    containers, names, run = map(os.fspath, (layout.containers, layout.names, layout.run))
    sweep.sweep(containers, names, run, store.inside.remove)
    left = frozenset(found(layout))
    return tuple(line for line in before if line not in left)


def _found(layout: Layout) -> Iterator[str]:
    for name in _names(layout.staging):
        if _is_unlocked(layout.staging / name):
            yield f"unfinished work {name}"
    for identifier in _names(layout.containers):
        yield from _remains(layout, identifier)
    for name in _names(layout.run):
        if _is_orphan(layout, layout.run / name):
            yield f"socket {name} of a container that is gone"
    for name in _names(layout.names):
        with suppress(OSError):
            target = os.fspath((layout.names / name).readlink())
            if (
                sweep.is_abandoned(os.fspath(layout.names / name))
                and not (layout.containers / target).exists()
            ):
                yield f"name {name} of no container"


def _remains(layout: Layout, identifier: str) -> Iterator[str]:
    directory = os.fspath(layout.containers / identifier)
    if state.is_live(directory):
        return
    short = identifier[:12]
    for group in state.noted_cgroups(directory):
        if Path(group).is_dir():
            yield f"cgroup {group} of {short}"
    if layout.monitor_socket(identifier).exists():
        yield f"socket of {short}"
    if sweep.is_remains(directory):
        yield f"remains of container {short}"


def _settle(layout: Layout, store: Store, identifier: str) -> None:
    directory = os.fspath(layout.containers / identifier)
    deadline = time.monotonic() + _ENDING_S
    with state.held_off(directory) as standing, suppress(OSError):  # what stays is found again
        if standing == "live":
            return
        path = os.fspath(layout.monitor_socket(identifier)) if standing == "dead" else None
        while not sweep.settle(directory, path, store.inside.remove):
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_AGAIN_S)


def _is_unlocked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # For a moment: whoever makes an entry then, takes another name.
        return try_lock(fd, Kind.EXCLUSIVE)
    finally:
        os.close(fd)


def _is_orphan(layout: Layout, path: Path) -> bool:
    """Tell a monitor's socket without a container, on which nobody listens."""
    prefix = path.name.removesuffix(".sock")
    if path.name == prefix or len(prefix) != 12 or not path.is_socket():
        return False
    if any(name.startswith(prefix) for name in _names(layout.containers)):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []
