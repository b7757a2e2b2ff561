"""Runs commands as a user without privileges, with this project and its packages in reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

UID = 12345
ROOMS = {
    "cellblock_engine": "engine",
    "cellblock_kernel": "kernel",
    "cellblock": "magics",
}
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class OrdinaryUser:
    """A user id, its own home, and a Python that it can read in which cellblock is installed."""

    uid: int
    home: Path
    python: Path

    @property
    def environment(self) -> dict[str, str]:
        """Everything the user's programs see of the environment."""
        return {
            "HOME": str(self.home),
            "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "XDG_DATA_HOME": str(self.home / "data"),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Of whoever tests another tree than the one that is installed.
            **{key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ},
        }

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in its home, and return what it said."""
        return subprocess.run(
            [str(word) for word in argv],
            input=stdin,
            capture_output=True,
            check=False,
            text=True,
            cwd=self.home,
            env={**self.environment, **(env or {})},
            timeout=timeout_s,
            **_identity(self.uid),
        )

    def run_python(self, code: str, *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run Python source as this user with its Python."""
        return self.run([self.python, "-c", code], timeout_s=timeout_s)

    def run_cellblock(self, *argv: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the cellblock command as this user."""
        return self.run([self.python, "-m", "cellblock", *argv], timeout_s=timeout_s)


@contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """Make the user's home, and a readable Python where ours is not; remove them on exit."""
    # Not below pytest's own directory: that is 0700. Short: the paths of sockets are limited.
    home = Path(tempfile.mkdtemp(prefix="cb-"))
    uid = UID if os.geteuid() == 0 else os.geteuid()
    try:
        os.chown(home, uid, uid if os.geteuid() == 0 else -1)
        for name in ("data", "run"):
            (home / name).mkdir(mode=0o700)
            os.chown(home / name, uid, uid if os.geteuid() == 0 else -1)
        python = Path(sys.executable)
        if not _usable(python, uid):
            python = _copied_python(home / "venv")
            if not _usable(python, uid):
                pytest.skip(f"needs a Python like {sys.executable} that an ordinary user can read")
        yield OrdinaryUser(uid, home, python)
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(home)], check=False, timeout=60)


def _identity(uid: int) -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    return {"user": uid, "group": uid, "extra_groups": []}


def _usable(python: Path, uid: int) -> bool:
    probe = "import cellblock, cellblock_engine, platformdirs, pandas"
    try:
        done = subprocess.run(
            [str(python), "-c", probe],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            check=False,
            timeout=60,
            **_identity(uid),
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _copied_python(target: Path) -> Path:
    """Make a virtual environment on the system's Python, with copies of what ours has."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = shutil.which(version, path="/usr/local/bin:/usr/bin")
    if base is None:
        pytest.skip(f"needs {version} where an ordinary user can read it")
    subprocess.run([base, "-m", "venv", "--without-pip", target], check=True, timeout=120)
    packages = target / "lib" / version / "site-packages"
    skipped = shutil.ignore_patterns(
        "__pycache__", "pip", "mypy*", "ruff*", "__editable__*", "*.pth"
    )
    shutil.copytree(sysconfig.get_path("purelib"), packages, dirs_exist_ok=True, ignore=skipped)
    for package, room in ROOMS.items():
        shutil.rmtree(packages / package, ignore_errors=True)
        shutil.copytree(PROJECT / room / package, packages / package, ignore=skipped)
    # Copied under this process's umask: the user must be able to read it all the same.
    subprocess.run(["chmod", "-R", "a+rX", str(target)], check=True, timeout=60)
    return target / "bin" / version
