"""Setting right what killed monitors and callers left behind.

A container whose lock nobody holds has no processes: its init died with its monitor. What
remains are its cgroups, its socket, its stale state and, for throw-away ones, its directory.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress

from ..linux import cgroups
from ..linux.processes import is_alive
from ..removal import Removal, recorded_removal
from ..store.trees import remove_tree
from . import state

Remove = Callable[[str], None]

_ABANDONED_S = 60.0


def sweep(containers: str, names: str, run: str, remove: Remove = remove_tree) -> bool:
    """Set right every container of the store below ``containers``; ``remove`` removes a tree.

    Returns whether that is all: processes of a killed monitor may still be on their way out.
    What cannot be removed (a file made immutable, say) stays, and keeps nobody from starting.
    """
    done = True
    for identifier in _entries(containers):
        directory = f"{containers}/{identifier}"
        # Beside a monitor that is being started, by this spawner or that of another version.
        with state.held_off(directory) as standing, suppress(OSError):
            if standing != "live":
                socket = f"{run}/{identifier[:12]}.sock" if standing == "dead" else None
                done &= settle(directory, socket, remove)
    for name in _entries(names):
        link = f"{names}/{name}"
        if is_abandoned(link) and not os.path.exists(f"{containers}/{os.readlink(link)}"):
            _unlink(link)
    return done


def settle(directory: str, socket: str | None, remove: Remove = remove_tree) -> bool:
    """Set right one container without a monitor; False while its processes are still ending.

    One whose maker was killed before it was one is removed, when it is clearly abandoned.
    """
    if cgroups.remove_stale(state.noted_cgroups(directory), "cellblock-"):
        return False
    if socket is not None:
        _unlink(socket)
    if is_remains(directory):
        remove(directory)
    return True


def is_remains(directory: str) -> bool:
    """Tell whether a container without a monitor is one that nobody is to see again."""
    aside = directory.rpartition("/")[2].startswith(".")
    never_ran = not state.is_recorded(directory) and is_abandoned(directory)
    return aside or never_ran or _is_throw_away(directory)


def _is_throw_away(directory: str) -> bool:
    """Tell whether it was to leave nothing when it ended so. What cannot be read is kept."""
    try:
        with open(f"{directory}/config.json", encoding="utf-8") as file:
            text = file.read()
        # Blank since a loss of power: only a throw-away one's is not synced when it is made.
        removal = recorded_removal(json.loads(text)) if text.strip("\0") else Removal.AT_END
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if removal is Removal.IF_ABANDONED:
        # Its monitor was killed before it could see either the command or the caller go.
        caller = state.noted_caller(directory)
        return caller is not None and not is_alive(caller)
    return removal is Removal.AT_END and state.read(directory).status == "exited"


def is_abandoned(path: str) -> bool:
    """Tell whether what is there is too old for its maker to be still at it."""
    try:
        age_s = time.time() - os.lstat(path).st_ctime
    except FileNotFoundError:
        return False
    return age_s > _ABANDONED_S or age_s < -_ABANDONED_S


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
