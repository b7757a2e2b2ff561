"""Processes that work on a store for this one: a script of this folder, alone with the engine.

Isolated, so nothing of the user's Python is loaded, and killable, so hostile input costs no more
than such a process.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from ..errors import StoreError


def start_child(
    program: Path, *words: str, fds: tuple[int, ...] = (), bufsize: int = -1
) -> subprocess.Popen[bytes]:
    """Start ``python -I -S PROGRAM PARENT_PID WORDS... SYS_PATH...``, with pipes for its streams.

    It inherits ``fds``. Raises OSError, and StoreError where a package is missing.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(program), str(os.getpid()), *words, *_library_paths()],
        bufsize=bufsize,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        cwd="/",
        start_new_session=True,  # a Ctrl-C at a terminal is for us to act on
        pass_fds=fds,
    )


def _library_paths() -> list[str]:
    """Return where the engine and the decompressors live: all that a child may import from."""
    names = ["isal"] if sys.version_info >= (3, 14) else ["isal", "backports.zstd"]
    paths = [str(Path(__file__).parents[2])]
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise StoreError(f"the Python package {name} is missing: install cellblock again")
        path = str(Path(spec.origin).parents[1 + name.count(".")])
        if path not in paths:
            paths.append(path)
    return paths
