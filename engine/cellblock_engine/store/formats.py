"""The format of a store: a number in its file ``format``, and the steps from older formats.

The file is also what marks a directory as a store. A store without it is of format 1, which is
older than the file. Raise the number, by a step, when an older cellblock would misunderstand what
this one writes; a field that it may overlook needs none.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import StoreError
from ..layout import Layout
from ..log import Log
from ..private import make_private
from .locks import Kind, locked

Step = Callable[[Layout], None]

STEPS: tuple[Step, ...] = ()
"""The n-th brings a store from format n to n + 1.

It may find its own work half done, as the last process that tried was killed, and containers
running. What it writes need not be synced.
"""

ENTRIES = frozenset(
    "blobs chains containers damaged derivations host layers names partials references staging "
    "gc.lock format ids.json".split()
)
"""Everything that cellblock puts directly into a store."""

_DRAFT = ".format."
_NO_MATTER = {"lost+found"}  # what mke2fs(8) puts into a disk of one's own
_MOST_BYTES = 4096
_WAIT_S = 30.0
_log = Log(__name__)


@dataclass(frozen=True)
class Format:
    """What a store is; ``writer`` is the version of cellblock that made or migrated it."""

    number: int
    writer: str


def newest() -> int:
    """Return the number of the format that this version writes."""
    return len(STEPS) + 1


def read(layout: Layout) -> Format | None:
    """Return what the store's mark says, None where there is none. Raises StoreError, OSError."""
    try:
        with layout.format.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        plain = json.loads(content)
        return Format(int(plain["format"]), str(plain["writer"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{layout.format} is damaged: restore it (doctor --repair does, where that can be), or "
            f"reset the store by removing {layout.home}"
        ) from error


def restore(layout: Layout) -> None:
    """Write a damaged mark anew, as long as there has been one format only. Raises OSError."""
    try:
        read(layout)
    except StoreError:
        if newest() == 1:
            _mark(layout, newest())


def foreign(layout: Layout) -> tuple[str, ...]:
    """Return the names directly in its directory that cellblock has not put there."""
    try:
        names = os.listdir(layout.home)  # noqa: PTH208 - names are what is wanted
    except FileNotFoundError:
        return ()
    kept = (n for n in names if n not in ENTRIES | _NO_MATTER and not n.startswith(_DRAFT))
    return tuple(sorted(kept))


def is_unmarked(layout: Layout) -> bool:
    """Tell a store of format 1: every start and pull has left its lock there."""
    return read(layout) is None and layout.gc_lock.is_file()


def make_home(layout: Layout) -> None:
    """Make the store's directory and its mark, for its owner only; existing ones are left.

    Raises OSError, and StoreError for a directory that has other files, or a newer format.
    """
    found = read(layout)
    if found is not None:
        check(layout, found)
        return
    if not is_unmarked(layout) and (others := foreign(layout)):
        raise StoreError(
            f"{layout.home} is not a store, it has other files ({others[0]!r}): name an empty "
            "directory with CELLBLOCK_HOME or store.home"
        )
    make_private(layout.home)
    _mark(layout, 1 if is_unmarked(layout) else newest())


def check(layout: Layout, found: Format) -> None:
    """Raise StoreError for a format of the future."""
    if found.number > newest():
        raise StoreError(
            f"the store {layout.home} has format {found.number}, written by cellblock "
            f"{found.writer}, and this version knows {newest()}: use that version, or another "
            "store (CELLBLOCK_HOME)"
        )


def migrate(layout: Layout) -> None:
    """Bring an older store to this format; nothing is made where there is no store.

    Several processes may; a killed one's work is gone on with. Raises StoreError, OSError, and
    Conflict while the store is in use.
    """
    found = read(layout)
    if found is None and not is_unmarked(layout):
        return
    if found is not None:
        check(layout, found)
    if (found.number if found else 1) == newest():
        return
    with locked(layout.gc_lock, Kind.EXCLUSIVE, timeout_s=_WAIT_S, what="the store"):
        found = read(layout)
        for number in range(found.number if found else 1, newest()):
            _log.info(
                "migrating the store %s from format %d to %d", layout.home, number, number + 1
            )
            STEPS[number - 1](layout)
            os.sync()  # the mark must not outlive a loss of power that the step does not
            _mark(layout, number + 1)


def _mark(layout: Layout, number: int) -> None:
    draft = layout.home / f"{_DRAFT}{secrets.token_hex(4)}"
    try:
        with draft.open("x", encoding="utf-8") as file:
            json.dump({"format": number, "writer": version()}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(layout.format)
    finally:
        draft.unlink(missing_ok=True)


def version() -> str:
    """Return the version of cellblock that is installed."""
    from importlib import metadata  # noqa: PLC0415 - once in the life of a store

    try:
        return metadata.version("cellblock")
    except metadata.PackageNotFoundError:
        return "of unknown version"
