"""The notebooks that are tutorials: how they are kept, and what is read of them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def read(name: str) -> Any:
    """Return a tutorial, as nbformat reads it."""
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def assert_kept_without_outputs(name: str) -> None:
    """Fail if a run of the tutorial was saved."""
    for cell in json.loads((NOTEBOOKS / name).read_text())["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def told(notebook: Any, verb: str) -> list[str]:
    """Return the words of the one command of a verb that its first cell tells to run."""
    (line,) = [
        line
        for line in notebook.cells[0].source.splitlines()
        if line.startswith(f"cellblock {verb} ")
    ]
    return shlex.split(line)[1:]


def text(cell: Any) -> str:
    """Return what a cell printed, or its value."""
    return "".join(each.get("text") or each.data["text/plain"] for each in cell.outputs)
