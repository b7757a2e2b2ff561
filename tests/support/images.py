"""Real images of this machine's distribution, made once and kept outside the tree.

``base`` is one gzip layer: mmdebstrap's minbase and python3. ``layered`` is umoci's work on top
of it: changed, deleted and replaced files, and an opaque directory. ``ipykernel``, ``bash`` and
``R`` hold kernels. The cache is
``$XDG_CACHE_HOME/cellblock-tests``; delete it to make them anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.layouts import LayoutWriter, small_tar

BUILD_TIMEOUT_S = 900
RECIPE = "minbase python3; umoci 2"
KERNELSPECS = {
    "bash": {
        "argv": ["python3", "-m", "bash_kernel", "-f", "{connection_file}"],
        "display_name": "Bash",
        "language": "bash",
        "codemirror_mode": "shell",
        "env": {"PS1": "$"},
    },
    "messages": {
        "argv": ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "By message",
        "language": "python",
        "interrupt_mode": "message",
    },
}
ENVIRONMENT = ("PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8")


def cache_directory() -> Path:
    """Return the directory of this recipe and distribution; it may not exist yet."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellblock-tests"
    key = hashlib.sha256(f"{RECIPE} {suite()} {platform.machine()}".encode()).hexdigest()[:12]
    return root / f"{suite()}-{key}"


def suite() -> str:
    """Return this distribution's code name, such as ``bookworm``."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")


def base_tar() -> Path:
    """Return the root file system as an uncompressed tar archive."""
    return cached("rootfs.tar", _make_tar)


def base_layout() -> Path:
    """Return an OCI layout whose tag ``latest`` is the base image, one gzip layer."""
    archive = base_tar()
    return cached("base", lambda target: _make_base(archive, target))


def kernel_layout() -> Path:
    """Return an OCI layout whose tag ``latest`` also has the distribution's own ipykernel."""
    return cached("ipykernel", _make_kernel)


def bash_layout() -> Path:
    """Return one that has the kernels of ``bash`` and ``messages`` beside ipykernel.

    The latter is an ipykernel that wants its interrupts as messages.
    """
    base = kernel_layout()
    return cached("bash", lambda target: _make_bash(base, target))


def r_layout() -> Path:
    """Return an OCI layout whose tag ``latest`` has R and its kernel, and no Python."""
    return cached("r", _make_r)


def layered_layout() -> Path:
    """Return an OCI layout whose tag ``latest`` is five layers with whiteouts, made by umoci."""
    base = base_layout()
    return cached("layered", lambda target: _make_layered(base, target))


def pandas_tree() -> Path:
    """Return a directory of what ``pip install pandas`` makes; it wants the package index once."""
    return cached("pandas", _make_pandas)


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cached path ``name``; under a lock, so that two test runs make it once."""
    directory = cache_directory()
    path = directory / name
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / "lock"):
        if not path.exists():
            unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=directory))
            try:
                make(unfinished / name)
                (unfinished / name).rename(path)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_tar(target: Path, packages: str = "python3") -> None:
    include = f"--include={packages}"
    _run("mmdebstrap", "--quiet", "--variant=minbase", include, suite(), str(target))


def _make_kernel(target: Path) -> None:
    archive = target.with_name("kernel.tar")
    _make_tar(archive, "python3-ipykernel")
    _make_base(archive, target)


def _make_r(target: Path) -> None:
    archive = target.with_name("r.tar")
    _make_tar(archive, "r-cran-irkernel")
    _make_base(archive, target)


def _make_bash(base: Path, target: Path) -> None:
    wheels = target.with_name("wheels")
    download = "pip download --quiet --no-deps --no-cache-dir --only-binary=:all: --dest"
    _run(sys.executable, "-m", *download.split(), str(wheels), "bash_kernel", "filetype")
    files: dict[str, bytes | str | None] = {
        f"usr/share/jupyter/kernels/{name}/kernel.json": json.dumps(spec).encode()
        for name, spec in KERNELSPECS.items()
    }
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                files[f"usr/lib/python3/dist-packages/{name}"] = archive.read(name)
    writer = LayoutWriter(target)
    layer = writer.layer(small_tar(target.with_name("bash.tar"), files))
    writer.image([*writer.adopt(base), layer], {"Env": [*_path(), *ENVIRONMENT]})


def _make_base(archive: Path, target: Path) -> None:
    writer = LayoutWriter(target)
    layer = writer.layer(archive, "gzip")
    writer.image([layer], {"Env": [*_path(), *ENVIRONMENT], "Cmd": ["python3"]})


def _make_pandas(target: Path) -> None:
    install = "pip install --quiet --no-cache-dir --only-binary=:all: --target"
    _run(sys.executable, "-m", *install.split(), str(target), "pandas")


def _path() -> list[str]:
    return ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


def _make_layered(base: Path, target: Path) -> None:
    """Put four layers on the base with umoci: two repacks, an opaque insert, and a whiteout."""
    shutil.copytree(base, target)
    image = f"{target}:latest"
    with tempfile.TemporaryDirectory(prefix="cellblock-bundle-", dir=target.parent) as directory:
        bundle = Path(directory) / "bundle"
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        _run("umoci", "unpack", *rootless, "--image", image, str(bundle))
        root = bundle / "rootfs"
        _first_change(root)
        _run("umoci", "repack", "--refresh-bundle", "--image", image, str(bundle))
        _second_change(root)
        _run("umoci", "repack", "--refresh-bundle", "--image", image, str(bundle))
        replacement = Path(directory) / "replacement"
        (replacement / "kept").mkdir(parents=True)
        (replacement / "kept" / "only").write_text("all that is left\n")
        _run("umoci", "insert", "--image", image, "--opaque", str(replacement), "/srv/opaque")
        _run("umoci", "insert", "--image", image, "--whiteout", "/etc/issue.net")
        subprocess.run(["rm", "-rf", str(bundle)], check=True, timeout=BUILD_TIMEOUT_S)


def _first_change(root: Path) -> None:
    opaque = root / "srv" / "opaque" / "old"
    opaque.mkdir(parents=True)
    (opaque / "hidden").write_text("behind the opaque directory\n")
    files = root / "srv" / "files"
    files.mkdir()
    (files / "one").write_text("one\n")
    os.link(files / "one", files / "same")
    (files / "link").symlink_to("one")
    (files / "private").write_text("private\n")
    (files / "private").chmod(0o600)
    (files / "sticky").mkdir()
    (files / "sticky").chmod(0o1777)
    (files / "setuid").write_text("#!/bin/true\n")
    (files / "setuid").chmod(0o4755)
    (files / "gone").write_text("deleted by the next layer\n")
    (files / "folder").mkdir()
    (files / "folder" / "inner").write_text("a file becomes of this folder\n")
    os.utime(files / "one", (1_000_000_000, 1_000_000_000))
    if os.geteuid() == 0:
        os.chown(files / "private", 1000, 1001)
        os.setxattr(files / "one", "user.colour", b"blue\0green")


def _second_change(root: Path) -> None:
    files = root / "srv" / "files"
    (files / "gone").unlink()
    shutil.rmtree(files / "folder")
    (files / "folder").write_text("a file now\n")
    (files / "link").unlink()
    (files / "link").mkdir()
    (root / "etc" / "hostname").unlink(missing_ok=True)
    shutil.rmtree(root / "usr" / "share" / "doc" / "mawk", ignore_errors=True)


def _run(*argv: str) -> None:
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr[-2000:]}")
