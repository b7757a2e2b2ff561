"""What the kernel answers: the attempts of :mod:`..linux.probes`, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import Unsupported
from ..layout import Layout
from ..linux import probes
from ..linux.idmaps import IdMaps
from ..private import make_private
from ..store.staging import Staging

_PATIENCE_S = 60.0

Answers = Mapping[str, str | None]
"""By attempt, what went wrong; None is yes."""


def ask(layout: Layout, maps: IdMaps | None, *, has_store: bool, has_run: bool) -> Answers:
    """Return what the kernel answered to each attempt, for containers of these ids.

    What a file system can do is tried in the store, which is there; without ``has_store``, in
    a temporary directory. Without ``has_run``, the directory of sockets, no range of root's is
    locked. Raises OSError, Unsupported.
    """
    ranges = ""
    if maps is None and has_run:
        make_private(layout.run.parent)
        ranges = os.fspath(layout.id_ranges)
    with Staging(layout.staging).directory() if has_store else _temporary() as directory:
        parent = os.fspath(Path(__file__).parents[2])
        program = f"import sys; sys.path.append({parent!r}); import runpy; runpy.run_module("
        program += f"{probes.__name__!r}, run_name='__main__', alter_sys=False)"
        done = subprocess.run(
            [
                sys.executable,
                *("-I", "-S", "-c", program),
                os.fspath(directory),
                ranges,
                json.dumps(maps),
            ],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Unsupported(f"this machine could not be examined: {last}")
    answers: dict[str, str | None] = json.loads(done.stdout)
    return answers


@contextmanager
def _temporary() -> Iterator[Path]:
    with TemporaryDirectory(prefix="cellblock-doctor-") as name:
        yield Path(name)
