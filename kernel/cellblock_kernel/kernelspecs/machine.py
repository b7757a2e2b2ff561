"""What this machine's pip says: which indexes packages come from, whom to trust, where it lies.

An image is shown indexes without credentials only, by TLS; what is in files of this machine
(``file://`` indexes, ``find-links``) it does not see.
See https://pip.pypa.io/en/stable/topics/configuration/.
"""

from __future__ import annotations

import ast
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cellblock_engine import InvalidInput

PIP_RUNNER = "__pip-runner__.py"
"""What in the folder of a pip can be run by another Python."""
_PYPI = "https://pypi.org/simple"
_PYPI_HOSTS = ("pypi.org", "files.pythonhosted.org")
_HTTPS_PORT = 443
_SECTIONS = (":env:", "install", "global")  # the strongest first
_TRUE = ("1", "true", "yes", "on")
_TIMEOUT_S = 60.0
_LOOK = """
import pip, runpy, sys
print(pip.__path__[0], flush=True)
sys.argv[1:] = ["config", "list"]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Machine:
    """Where packages come from here.

    ``hosts`` are as a run's ``allow_hosts``; ``certificates`` is a file of authorities to trust,
    ``pip`` the folder of a pip, None where there is none.
    """

    indexes: tuple[str, ...]
    hosts: tuple[str, ...]
    certificates: Path | None
    pip: Path | None

    @classmethod
    def read(cls) -> Machine:
        """Return what pip's files and variables say.

        Raises InvalidInput for indexes that cannot be shown to an image.
        """
        pip, settings = _look()

        def setting(name: str) -> str:
            values = (settings.get(f"{section}.{name}") for section in _SECTIONS)
            return next((value for value in values if value is not None), "")

        if setting("no-index").lower() in _TRUE:
            raise _refusal("pip's configuration says no-index")
        main, *more = (setting("index-url") or _PYPI), *setting("extra-index-url").split()
        if _is_of_files(main):
            main = _PYPI
        indexes = (main, *(index for index in more if not _is_of_files(index)))
        hosts = dict.fromkeys(host for index in indexes for host in _hosts(index))
        certificates = setting("cert") or ssl.get_default_verify_paths().cafile or ""
        path = Path(os.path.realpath(certificates))
        return cls(indexes, tuple(hosts), path if path.is_file() else None, pip)


def _look() -> tuple[Path | None, Mapping[str, str]]:
    """Return the folder of a pip and its settings, by ``SECTION.NAME``."""
    base = getattr(sys, "_base_executable", sys.executable)
    for python in dict.fromkeys((sys.executable, base)):
        with suppress(OSError, subprocess.TimeoutExpired):
            # -I: the notebook's folder may have a pip.py.
            done = subprocess.run(
                [python, "-I", "-c", _LOOK],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            if done.returncode == 0:
                path, *lines = done.stdout.splitlines()
                pip = Path(path)
                return pip if (pip / PIP_RUNNER).is_file() else None, dict(_settings(lines))
    variables = {
        f":env:.{name.removeprefix('PIP_').lower().replace('_', '-')}": value
        for name, value in os.environ.items()
        if name.startswith("PIP_")
    }
    return None, variables


def _settings(lines: list[str]) -> list[tuple[str, str]]:
    """Return names and values of ``pip config list``, which writes values as Python does."""
    found = []
    for line in lines:
        name, _, value = line.partition("=")
        with suppress(ValueError, SyntaxError):
            found.append((name, str(ast.literal_eval(value))))
    return found


def _is_of_files(index: str) -> bool:
    return not index.lower().startswith(("http://", "https://"))


def _hosts(index: str) -> tuple[str, ...]:
    """Return what a container has to reach for an index. Raises InvalidInput."""
    try:
        parts = urlsplit(index)
        host, port = parts.hostname or "", parts.port or _HTTPS_PORT
    except ValueError:  # its words may have a password in them
        raise _refusal("pip's configuration has a package index that is not understood") from None
    if parts.username or parts.password:
        raise _refusal(f"the package index {host} needs credentials, which no image is shown")
    if parts.scheme != "https":
        raise _refusal(f"the package index {host} is without TLS, over which no image is let out")
    # The user's own index may be in a private network; the world's is not.
    return _PYPI_HOSTS if host in _PYPI_HOSTS else (f"{host}:{port}/private",)


def _refusal(why: str) -> InvalidInput:
    return InvalidInput(f"{why}: use an image that has ipykernel")
