"""Containerised cells and kernels for Jupyter; the door of this room.

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cells.cell import CellResult, run_cell, run_script, run_script_in
    from .cells.events import Clear, Display, Error, Event, InputRequest, Result, Stream
    from .cells.output import OutputLimits
    from .cells.session import Session, Sessions
    from .errors import (
        CellFailed,
        CellInterrupted,
        InterpreterLost,
        NotebookFailed,
        OutputRefused,
        PreparationFailed,
        VariableRefused,
    )
    from .gate.options import KernelOptions, Successor
    from .kernelspecs.folders import (
        Kernelspec,
        installed_kernelspecs,
        remove_kernelspec,
        remove_kernelspecs_of,
    )
    from .kernelspecs.installation import install_kernelspecs
    from .kernelspecs.preparation import Preparation
    from .kernelspecs.succession import find_successor, made_successor
    from .notebooks.execution import run_notebook
    from .notebooks.lock import Lock
    from .notebooks.locking import CheckedLock, check_lock, lock_notebook
    from .outputs.bundles import Losses, reduce_bundle, reduce_metadata, trusted_bundle
    from .outputs.text import TextCleaner, clean

__all__ = [
    "CellFailed",
    "CellInterrupted",
    "CellResult",
    "CheckedLock",
    "Clear",
    "Display",
    "Error",
    "Event",
    "InputRequest",
    "InterpreterLost",
    "KernelOptions",
    "Kernelspec",
    "Lock",
    "Losses",
    "NotebookFailed",
    "OutputLimits",
    "OutputRefused",
    "Preparation",
    "PreparationFailed",
    "Result",
    "Session",
    "Sessions",
    "Stream",
    "Successor",
    "TextCleaner",
    "VariableRefused",
    "check_lock",
    "clean",
    "find_successor",
    "install_kernelspecs",
    "installed_kernelspecs",
    "lock_notebook",
    "made_successor",
    "reduce_bundle",
    "reduce_metadata",
    "remove_kernelspec",
    "remove_kernelspecs_of",
    "run_cell",
    "run_notebook",
    "run_script",
    "run_script_in",
    "trusted_bundle",
]

_HOMES = {
    ".cells.cell": ("CellResult", "run_cell", "run_script", "run_script_in"),
    ".cells.events": ("Clear", "Display", "Error", "Event", "InputRequest", "Result", "Stream"),
    ".cells.output": ("OutputLimits",),
    ".cells.session": ("Session", "Sessions"),
    ".errors": (
        "CellFailed",
        "CellInterrupted",
        "InterpreterLost",
        "NotebookFailed",
        "OutputRefused",
        "PreparationFailed",
        "VariableRefused",
    ),
    ".gate.options": ("KernelOptions", "Successor"),
    ".kernelspecs.folders": (
        "Kernelspec",
        "installed_kernelspecs",
        "remove_kernelspecs_of",
        "remove_kernelspec",
    ),
    ".kernelspecs.installation": ("install_kernelspecs",),
    ".kernelspecs.preparation": ("Preparation",),
    ".kernelspecs.succession": ("find_successor", "made_successor"),
    ".notebooks.execution": ("run_notebook",),
    ".notebooks.lock": ("Lock",),
    ".notebooks.locking": ("CheckedLock", "check_lock", "lock_notebook"),
    ".outputs.bundles": ("Losses", "reduce_bundle", "reduce_metadata", "trusted_bundle"),
    ".outputs.text": ("TextCleaner", "clean"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import the home of a public name (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
