"""Containerised cells and kernels for Jupyter; the door of this room.

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cells.cell import CellResult, OutputLimits, run_cell
    from .cells.events import Display, Error, Event, Result, Stream
    from .cells.text import TextCleaner
    from .errors import CellFailed, CellInterrupted, OutputRefused

__all__ = [
    "CellFailed",
    "CellInterrupted",
    "CellResult",
    "Display",
    "Error",
    "Event",
    "OutputLimits",
    "OutputRefused",
    "Result",
    "Stream",
    "TextCleaner",
    "run_cell",
]

_HOMES = {
    ".cells.cell": ("CellResult", "OutputLimits", "run_cell"),
    ".cells.events": ("Display", "Error", "Event", "Result", "Stream"),
    ".cells.text": ("TextCleaner",),
    ".errors": ("CellFailed", "CellInterrupted", "OutputRefused"),
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
