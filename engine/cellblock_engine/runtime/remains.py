"""Removing what was written in containers: it may belong to ids that are the user's only inside.

Subordinate ids own files on disk that nobody can remove but root of a user namespace that has
them. Becoming that is for good, so a child does it; and only where a plain removal is refused,
as most containers have written nothing as anybody else. user_namespaces(7).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable

from ..linux import idmaps
from ..linux.idmaps import IdMaps
from ..store.trees import remove_tree


def remove(directory: str, maps: IdMaps | None) -> None:
    """Remove a directory of a container that had these ids; nothing there is no error.

    Only for single-threaded processes. Raises OSError; then some of it may be there still.
    """
    _remove(directory, lambda: maps)


def remove_noted(directory: str, note: str) -> None:
    """Do so with the ids that the file ``note`` of the store names, if there is one."""
    _remove(directory, lambda: _noted(note))


def _remove(directory: str, maps_of: Callable[[], IdMaps | None]) -> None:
    try:
        remove_tree(directory)
    except PermissionError:
        maps = maps_of()
        if maps is None or maps.is_single:
            raise
        _remove_inside(directory, maps)


def _noted(note: str) -> IdMaps | None:
    try:
        with open(note, encoding="utf-8") as file:
            return IdMaps.of(json.load(file))
    except (OSError, ValueError, TypeError):
        return None


def _remove_inside(directory: str, maps: IdMaps) -> None:
    child = os.fork()
    if child == 0:
        status = errno.EPERM
        try:
            idmaps.enter(maps)
            remove_tree(directory)
            status = 0
        except OSError as error:
            status = error.errno or status
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        why = os.strerror(code) if code > 0 else f"its remover was killed by signal {-code}"
        raise OSError(code, f"cannot be removed as root of its ids: {why}", directory)
