"""Every Python from 3.8 on that this machine has, for what runs inside containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OTHER_VERSIONS = ("3.8", "3.9", "3.12", "3.13", "3.14")


def find_python(version: str) -> str | None:
    """Return an interpreter of this version that starts, from PATH or pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = shutil.which(f"python{version}")
    candidates = [*sorted(map(str, root.glob(f"versions/{version}.*/bin/python"))), found]
    for candidate in filter(None, candidates):
        check = subprocess.run([candidate, "-c", "pass"], capture_output=True, check=False)
        if check.returncode == 0:
            return candidate
    return None


@pytest.fixture(params=[None, *OTHER_VERSIONS], ids=lambda version: version or "own")
def python(request) -> str:
    if request.param is None:
        return sys.executable
    found = find_python(request.param)
    if found is None:
        pytest.skip(f"no Python {request.param} on this machine")
    return found
