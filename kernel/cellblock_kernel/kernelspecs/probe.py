"""What kernels an image has: looked for once inside, off line, below the limits they will have."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cellblock_engine import HOST_IMAGE, CommandNotFound, Engine, InvalidInput, Limits, Result

from ..gate import house
from ..guest.probe import LACKING
from ..outputs.text import one_line

_PYTHONS = ("python3", "python")
_TIMEOUT_S = 60.0
_MOST_SAID = 200
_SCRIPT = Path(__file__).parent.parent / "guest" / "probe.py"
# The same list where there is no Python, of an image that may have little more than a shell.
_SHELL_SCRIPT = r"""
IFS=:
for folder in $JUPYTER_PATH "${JUPYTER_DATA_DIR:-$HOME/.local/share/jupyter}" \
    /usr/local/share/jupyter /usr/share/jupyter; do
    for path in "$folder"/kernels/*/kernel.json; do
        [ -f "$path" ] || continue
        printf '%s\n' "$path"
        head -c 65537 "$path"
        printf '\0'
    done
done
"""


@dataclass(frozen=True)
class Findings:
    """What was found in an image, in its own words: nothing of it is to be trusted.

    ``python`` is the word that starts its Python, ``listing`` the kernelspecs (:mod:`.offers`).
    """

    python: str | None
    has_ipykernel: bool
    listing: bytes


def probe(engine: Engine, image: str, limits: Limits, name: str) -> Findings:
    """Return what an image has; ``name`` is what the user calls it.

    Raises InvalidInput for a Python that does not start, LimitNotEnforceable, the verdicts of a
    run (OutOfMemory and others), StartFailed.
    """

    def run(*argv: str) -> Result:
        return engine.run(
            image, argv, limits=limits, timeout=_TIMEOUT_S, entrypoint="", user=house.user()
        ).check()

    for python in (sys.executable,) if image == HOST_IMAGE else _PYTHONS:
        try:
            result = run(python, "-c", _SCRIPT.read_text())
        except CommandNotFound:
            continue
        if result.exit_code in (0, LACKING):
            # The host's other kernels are this machine's, which is not asked for.
            listing = b"" if image == HOST_IMAGE else result.stdout
            return Findings(python, result.exit_code == 0, listing)
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        said = f": {one_line(lines[-1], _MOST_SAID)}" if lines else ""
        raise InvalidInput(
            f"the Python of image {name} does not start, exit status {result.exit_code}{said}"
        )
    try:
        return Findings(None, has_ipykernel=False, listing=run("sh", "-c", _SHELL_SCRIPT).stdout)
    except CommandNotFound:
        return Findings(None, has_ipykernel=False, listing=b"")
