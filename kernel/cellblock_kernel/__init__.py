"""Containerised cells and kernels for Jupyter; the door of this room.

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cells.cell import CellResult, run_cell, run_script
    from .cells.events import Clear, Display, Error, Event, InputRequest, Result, Stream
    from .cells.running import OutputLimits
    from .cells.text import TextCleaner, clean
    from .errors import (
        CellFailed,
        CellInterrupted,
        OutputRefused,
        PreparationFailed,
        VariableRefused,
    )
    from .gate.options import KernelOptions
    from .kernelspecs.folders import (
        Kernelspec,
        installed_kernelspecs,
        remove_kernelspec,
        remove_kernelspecs_of,
    )
    from .kernelspecs.installation import install_kernelspecs
    from .kernelspecs.preparation import Preparation

__all__ = [
    "CellFailed",
    "CellInterrupted",
    "CellResult",
    "Clear",
    "Display",
    "Error",
    "Event",
    "InputRequest",
    "KernelOptions",
    "Kernelspec",
    "OutputLimits",
    "OutputRefused",
    "Preparation",
    "PreparationFailed",
    "Result",
    "Stream",
    "TextCleaner",
    "VariableRefused",
    "clean",
    "install_kernelspecs",
    "installed_kernelspecs",
    "remove_kernelspec",
    "remove_kernelspecs_of",
    "run_cell",
    "run_script",
]

_HOMES = {
    ".cells.cell": ("CellResult", "run_cell", "run_script"),
    ".cells.events": ("Clear", "Display", "Error", "Event", "InputRequest", "Result", "Stream"),
    ".cells.running": ("OutputLimits",),
    ".cells.text": ("TextCleaner", "clean"),
    ".errors": (
        "CellFailed",
        "CellInterrupted",
        "OutputRefused",
        "PreparationFailed",
        "VariableRefused",
    ),
    ".gate.options": ("KernelOptions",),
    ".kernelspecs.folders": (
        "Kernelspec",
        "installed_kernelspecs",
        "remove_kernelspecs_of",
        "remove_kernelspec",
    ),
    ".kernelspecs.installation": ("install_kernelspecs",),
    ".kernelspecs.preparation": ("Preparation",),
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
