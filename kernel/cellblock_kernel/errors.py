"""What running a cell raises beside the engine's own errors.

::

    CellblockError
    |-- CellFailed        the cell itself failed; its traceback has been shown
    |-- NotebookFailed    a notebook that was run did not get to its end
    |-- InterpreterLost   what cells of a running container share has ended, variables and all
    |-- OutputRefused     what the cell sent is no output, or too much of it
    |-- PreparationFailed an image cannot be given ipykernel
    `-- VariableRefused   a variable has no safe form, is missing or too large; none was bound
    KeyboardInterrupt
    `-- CellInterrupted   the user's interrupt ended the cell

Each is one line in a notebook: what there is to read has been shown before.
"""

from __future__ import annotations

from cellblock_engine import CellblockError

MAX_EVALUE = 300


class CellFailed(CellblockError):
    """The cell raised ``ename``, or left with an exit status other than 0."""

    exit_status = 1

    def __init__(self, ename: str, evalue: str) -> None:
        self.ename, self.evalue = ename, evalue
        lines = evalue.strip().splitlines()
        short = lines[0] if lines else ""
        if len(lines) > 1 or len(short) > MAX_EVALUE:
            short = short[:MAX_EVALUE] + " ..."
        super().__init__(f"{ename}: {short}" if short else ename)

    def _render_traceback_(self) -> list[str]:
        return [f"CellFailed: {self}"]


class InterpreterLost(CellblockError):
    """The interpreter that cells in a running container share has ended, by itself or with it."""


class OutputRefused(CellblockError):
    """The cell's output broke the protocol or passed its cap; what ran the cell was ended."""


class VariableRefused(CellblockError):
    """A variable cannot travel into a cell or back, or is not there; nothing was bound."""


class CellInterrupted(KeyboardInterrupt):
    """The user's interrupt ended the cell, and what runs it is left only if cells share it."""

    def _render_traceback_(self) -> list[str]:
        return [f"CellInterrupted: {self}"]


class NotebookFailed(CellblockError):
    """A notebook was run and failed, mostly in a cell; its outputs are where they were to be."""

    exit_status = 1


class KernelNotReady(CellblockError):
    """A kernel's container ended, or did something else, before the kernel could be talked to."""


class PreparationFailed(CellblockError):
    """An image could not be given what a kernel needs; nothing of the attempt is left."""
