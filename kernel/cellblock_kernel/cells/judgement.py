"""What the end of a cell means: an exception to raise, or nothing where it ended well."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from cellblock_engine import TimedOut, Unsupported

from ..errors import CellFailed, CellInterrupted, OutputRefused, VariableRefused
from ..outputs.text import one_line
from .variables import refused, unpack

if TYPE_CHECKING:
    from cellblock_engine import Exit

    from .running import RunningCell


def judge(run: RunningCell, exit_: Exit, place: str) -> None:
    """Raise what ended the cell, unless it ended by itself.

    ``place`` is what was killed if it had to be: its container, its interpreter.
    """
    if run.refused is not None:
        raise OutputRefused(f"the cell's output was refused and its {place} ended: {run.refused}")
    ended_well = exit_.exit_code == 0 and run.output.error is None and exit_.verdict is None
    if run.interrupts_told and not ended_well:
        raise CellInterrupted(_interruption(run, place))
    if run.timed_out and run.timeout_s is not None and not ended_well:
        raise TimedOut(limit_s=run.timeout_s)
    if exit_.verdict is not None:
        raise exit_.verdict
    if run.output.error is not None:
        raise CellFailed(run.output.error.ename, run.output.error.evalue)
    if run.frames.refusals:
        raise refused(run.frames.refusals)


def judge_process(run: RunningCell, exit_: Exit, image: str, place: str) -> None:
    """Judge a cell that had its process for itself."""
    judge(run, exit_, place)
    if exit_.exit_code != 0:
        raise _silent_failure(run, exit_.exit_code, image)
    name_ignored(run)


def name_ignored(run: RunningCell) -> None:
    """Tell what kinds of output a newer runner, or the cell itself, has sent."""
    if run.frames.ignored:
        kinds = ", ".join(sorted(one_line(kind, 40) for kind in run.frames.ignored)[:5])
        run.output.remark(f"output of unknown kinds ignored: {kinds}")


def variables(run: RunningCell) -> dict[str, object]:
    """Return the variables that were wanted of a cell that ended well."""
    missing = run.frames.missing()
    if missing:
        raise VariableRefused(
            f"the cell ended well without a variable {', '.join(map(repr, missing))}; nothing "
            "was brought back"
        )
    return unpack(run.frames.variables)


def signal_of(exit_code: int) -> str | None:
    """Return the name of the signal that ended a process."""
    if exit_code > 128:
        with contextlib.suppress(ValueError):
            return signal.Signals(exit_code - 128).name
    return None


def too_old(image: str, exit_code: int) -> Unsupported:
    """Return the error for a runner that did not say hello."""
    return Unsupported(
        f"the Python of image {image} did not start the cell (exit status {exit_code}): "
        "a cell needs Python 3.8 or newer"
    )


def _interruption(run: RunningCell, place: str) -> str:
    if not run.gave_up:
        return "the cell was interrupted"
    if run.interrupts_told > 1:
        return f"the cell was interrupted twice, and its {place} was killed"
    return f"the cell did not stop within {run.grace_s:g} s, and its {place} was killed"


def _silent_failure(run: RunningCell, exit_code: int, image: str) -> CellFailed | Unsupported:
    name = signal_of(exit_code)
    if name is not None:
        return CellFailed(name, "this signal ended the cell's process")
    if not run.has_frames:
        return CellFailed("ExitStatus", str(exit_code))
    if not run.has_begun:
        return too_old(image, exit_code)
    return CellFailed("SystemExit", str(exit_code))
