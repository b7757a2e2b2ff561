"""Setting right what killed monitors and callers left behind.

A container whose lock nobody holds has no processes: its init died with its monitor. What
remains are its cgroups, its socket, its stale state and, for throw-away ones, its directory.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import replace

from ..linux import cgroups
from ..store.trees import remove_tree
from . import state

_ABANDONED_S = 60.0


def sweep(containers: str, names: str, run: str) -> bool:
    """Set right every container of the store below ``containers``. Raises OSError.

    Returns whether that is all: processes of a killed monitor may still be on their way out.
    """
    done = True
    for identifier in _entries(containers):
        directory = f"{containers}/{identifier}"
        if not state.is_live(directory):
            done &= _settle(directory, f"{run}/{identifier[:12]}.sock")
    for name in _entries(names):
        link = f"{names}/{name}"
        if os.path.islink(link) and not os.path.exists(f"{containers}/{os.readlink(link)}"):
            _unlink(link)
    return done


def _settle(directory: str, socket: str) -> bool:
    try:
        with open(f"{directory}/config.json", encoding="utf-8") as file:
            throw_away = bool(json.load(file)["remove"])
    except (FileNotFoundError, ValueError, KeyError):
        throw_away = True  # its maker was killed before it was one
    now = state.read(directory)
    if now.cgroups:
        left = cgroups.remove_stale(now.cgroups, "cellblock-")
        state.write(directory, replace(now, cgroups=left))
        if left:
            return False
    if now.status == "created" and not _is_abandoned(directory):
        return True  # its maker may be about to start it
    _unlink(socket)
    if throw_away or now.status == "created":
        remove_tree(directory)
    return True


def _is_abandoned(directory: str) -> bool:
    try:
        age_s = time.time() - os.stat(directory).st_ctime
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
