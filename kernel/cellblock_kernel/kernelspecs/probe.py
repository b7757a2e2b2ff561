"""Whether an image can be a kernel: tried once, off line, below the limits it will have."""

from __future__ import annotations

import sys

from cellblock_engine import HOST_IMAGE, CommandNotFound, Engine, InvalidInput, Limits

_PYTHONS = ("python3", "python")
_TIMEOUT_S = 60.0
_LACKING = 3
_SCRIPT = f"""
import importlib.util, sys
sys.exit(0 if importlib.util.find_spec("ipykernel") else {_LACKING})
"""


def python_of(engine: Engine, image: str, limits: Limits, name: str) -> str:
    """Return the word that starts the Python of an image that holds ipykernel.

    ``name`` is what the user calls the image. Raises InvalidInput for an image without either,
    LimitNotEnforceable, the verdicts of a run (OutOfMemory and others), StartFailed.
    """
    for python in (sys.executable,) if image == HOST_IMAGE else _PYTHONS:
        try:
            result = engine.run(
                image, (python, "-c", _SCRIPT), limits=limits, timeout=_TIMEOUT_S, entrypoint=""
            ).check()
        except CommandNotFound:
            continue
        if result.exit_code == 0:
            return python
        if result.exit_code == _LACKING:
            raise InvalidInput(
                f"image {name} has no ipykernel: use one that has it (pip install ipykernel)"
            )
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        raise InvalidInput(
            f"the Python of image {name} does not start, exit status {result.exit_code}{said}"
        )
    raise InvalidInput(f"image {name} has no Python: use one that holds Python and ipykernel")
