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

from cellblock_engine.linux import idmaps
from cellblock_engine.store.trees import remove_tree
from support import capabilities

UID = 12345
SUBORDINATE_NAME = "cbuser"
SUBORDINATE_UID = 12346
SUBORDINATE_IDS = (300000, 65536)
"""The first subordinate id of this user, and how many there are."""

ROOMS = {
    "cellblock_engine": "engine",
    "cellblock_kernel": "kernel",
    "cellblock": "magics",
}
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class OrdinaryUser:
    """A user id, its own home, and a Python that it can read in which cellblock is installed.

    Its programs are in the mount namespace ``mounts`` (a descriptor), if that is one of its own.
    """

    uid: int
    home: Path
    python: Path
    mounts: int | None = None
    has_subordinate_ids: bool = False

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
            self.command(argv),
            input=stdin,
            capture_output=True,
            check=False,
            text=True,
            cwd=self.home,
            env={**self.environment, **(env or {})},
            timeout=timeout_s,
            **self.identity,
        )

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return what starts a command as this user, for whoever gives it :attr:`identity`."""
        words = [str(word) for word in argv]
        if self.mounts is None:
            return words
        place = f"/proc/{os.getpid()}/fd/{self.mounts}"
        user = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
        return [
            "nsenter",
            f"--mount={place}",
            f"--wdns={self.home}",
            "setpriv",
            *user,
            "--",
            *words,
        ]

    @property
    def identity(self) -> dict[str, object]:
        """What subprocess must be told besides."""
        return _identity(self.uid) if self.mounts is None else {}

    def run_python(self, code: str, *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run Python source as this user with its Python."""
        return self.run([self.python, "-c", code], timeout_s=timeout_s)

    def run_cellblock(self, *argv: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the cellblock command as this user."""
        return self.run([self.python, "-m", "cellblock", *argv], timeout_s=timeout_s)


@contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """Make the user's home, and a readable Python where ours is not; remove them on exit.

    As root the user has no subordinate ids. Who is no other than who tests may have some.
    """
    uid = UID if os.geteuid() == 0 else os.geteuid()
    with _home(uid) as (home, python):
        has_some = os.geteuid() != 0 and idmaps.subordinate() is not None
        yield OrdinaryUser(uid, home, python, has_subordinate_ids=has_some)


@contextmanager
def subordinate_user() -> Iterator[OrdinaryUser]:
    """Make a user who has subordinate ids, as :func:`ordinary_user` does; else skip.

    The files that say so are seen by this user's programs alone.
    """
    for name in ("newuidmap", "newgidmap"):
        capabilities.need_program(name)
    if os.geteuid() != 0:
        if idmaps.subordinate() is None:
            pytest.skip("needs subordinate ids (/etc/subuid, /etc/subgid)")
        with _home(os.geteuid()) as (home, python):
            yield OrdinaryUser(os.geteuid(), home, python, has_subordinate_ids=True)
        return
    capabilities.need_capability(capabilities.CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
    for name in ("nsenter", "setpriv"):
        capabilities.need_program(name)
    with _home(SUBORDINATE_UID) as (home, python), _own_accounts() as mounts:
        yield OrdinaryUser(SUBORDINATE_UID, home, python, mounts, has_subordinate_ids=True)


@contextmanager
def _home(uid: int) -> Iterator[tuple[Path, Path]]:
    # Not below pytest's own directory: that is 0700. Short: the paths of sockets are limited.
    home = Path(tempfile.mkdtemp(prefix="cb-"))
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
        yield home, python
    finally:
        _remove(home)


@contextmanager
def _own_accounts() -> Iterator[int]:
    """Yield a mount namespace whose accounts are this machine's and SUBORDINATE_NAME."""
    first, count = SUBORDINATE_IDS
    name, uid = SUBORDINATE_NAME, SUBORDINATE_UID
    lines = {
        "passwd": f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n",
        "group": f"{name}:x:{uid}:\n",
        "subuid": f"{name}:{first}:{count}\n",
        "subgid": f"{name}:{first}:{count}\n",
    }
    with tempfile.TemporaryDirectory(prefix="cb-etc-") as folder:
        Path(folder).chmod(0o755)
        for file, line in lines.items():
            own = Path("/etc", file)
            copy = Path(folder, file)
            copy.write_text((own.read_text() if own.exists() else "") + line)
            copy.chmod(0o644)
        mounts = _namespace_with(Path(folder), sorted(lines))
        try:
            yield mounts
        finally:
            os.close(mounts)


def _namespace_with(folder: Path, files: Sequence[str]) -> int:
    """Return a descriptor of a new mount namespace that has these files in /etc."""
    script = 'set -e; cd "$0"; for file; do mount --bind $file /etc/$file; done; echo; read end'
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script, folder, *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as made:
        assert made.stdout is not None
        if made.stdout.readline() != "\n":
            pytest.skip("needs /etc/subuid and /etc/subgid, to be mounted over")
        return os.open(f"/proc/{made.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _remove(home: Path) -> None:
    """Remove a user's home, with what has subordinate ids in it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            maps = None if os.geteuid() == 0 else idmaps.subordinate()
            if maps is not None:
                idmaps.enter(maps)
            remove_tree(home)
            status = 0
        finally:
            os._exit(status)
    os.waitpid(child, 0)


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
