"""The root file system of the machine that ``make test-vm`` boots: Debian with systemd, made once.

It holds what the tests need, but not the project itself: that is seen through hostfs. The cache is
that of the images; its key is all that goes in.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import suppress
from pathlib import Path

from support import images

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "systemd-sysv dbus-user-session libpam-systemd uidmap python3 python3-venv iproute2 nftables "
    "kmod procps ca-certificates docker-registry skopeo umoci strace apache2-utils"
)
UNUSED = {"mypy", "ruff", "import-linter", "pandas-stubs"}  # a guest only runs tests
MODULES = Path("/usr/lib/uml/modules")
SIZE_BYTES = 6 << 30  # a file with holes
BUILD_TIMEOUT_S = 1800
UNUSED_S = 14 * 24 * 3600
USERS = {"subids": 1001, "single": 1002}
BOOT = """\
#!/bin/sh
# The command line names the host's folders; what is done with them is in the checkout.
set -eu
named() { sed -n "s/.*rig\\.$1=\\([^ ]*\\).*/\\1/p" /proc/cmdline; }
mount -t hostfs -o "ro,$(named checkout)" none /checkout
mount -t hostfs -o "$(named results)" none /results
mount -t hostfs -o "ro,$(named cache)" none /var/cache/rig/cellblock-tests
exec python3 /checkout/tests/vm/guest.py
"""
SERVICE = """\
[Unit]
Description=The tests
Wants=systemd-logind.service
After=systemd-logind.service dbus.service systemd-user-sessions.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/rig
ExecStopPost=/bin/systemctl poweroff --force --force
StandardOutput=journal+console
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""
FILES = {
    "usr/local/sbin/rig": BOOT,
    "etc/systemd/system/rig.service": SERVICE,
    "etc/hostname": "rig\n",
    "etc/hosts": "127.0.0.1 localhost rig\n::1 localhost\n",
    "etc/fstab": "",
    # The first ordinary user has a range and a session of systemd's, the second neither.
    "etc/subuid": "subids:100000:65536\n",
    "etc/subgid": "subids:100000:65536\n",
    "var/lib/systemd/linger/subids": "",
}
LINKS = {
    "etc/systemd/system/multi-user.target.wants/rig.service": "/etc/systemd/system/rig.service",
    "etc/systemd/system/default.target": "/lib/systemd/system/multi-user.target",
    **{
        f"etc/systemd/system/{unit}": "/dev/null"
        for unit in (
            "docker-registry.service",
            "apt-daily.timer",
            "apt-daily-upgrade.timer",
            "dpkg-db-backup.timer",
            "e2scrub_all.timer",
            "fstrim.timer",
            "getty.target",
            "systemd-timesyncd.service",
            "nftables.service",
        )
    },
}
DIRECTORIES = ("checkout", "results", "var/cache/rig/cellblock-tests")


def image() -> Path:
    """Return the ext4 image, made where it is not in the cache; that wants root's rights.

    It is to be used as it is: a machine's changes go into a file of their own.
    """
    directory = images.cache_directory().parent
    path = directory / f"machine-{_key()}.ext4"
    if path.exists():
        with suppress(PermissionError):  # root's: whoever only uses it cannot say so
            os.utime(path)
        return path
    if os.geteuid() != 0:
        raise PermissionError("the root file system of the machine is made by root, once: use sudo")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "machine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = Path(tempfile.mkdtemp(prefix=".machine-", dir=directory))
            try:
                _make(unfinished / "root", unfinished / path.name)
                (unfinished / path.name).rename(path)
                _forget_unused(directory)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return path


def _forget_unused(directory: Path) -> None:
    """Remove images of other recipes, which nobody seems to use any more."""
    for other in directory.glob("machine-*.ext4"):
        if time.time() - other.stat().st_mtime > UNUSED_S:
            other.unlink(missing_ok=True)


def _key() -> str:
    """Return a digest of everything that the image is made from."""
    modules = sorted(path.name for path in MODULES.iterdir()) if MODULES.exists() else []
    facts = (
        Path(__file__).read_text(),
        _requirements(),
        images.suite(),
        platform.machine(),
        modules,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _requirements() -> list[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    return sorted({line for line in wanted if line.split(">")[0].strip() not in UNUSED})


def _make(root: Path, image: Path) -> None:
    _run(
        "mmdebstrap",
        "--mode=root",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(PACKAGES.split())}",
        images.suite(),
        str(root),
    )
    _configure(root)
    _install(root)
    shutil.copytree(MODULES, root / "lib" / "modules", symlinks=True, dirs_exist_ok=True)
    image.touch()
    os.truncate(image, SIZE_BYTES)
    _run("mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(root), str(image))
    image.chmod(0o644)


def _configure(root: Path) -> None:
    for name, uid in USERS.items():
        _run("chroot", str(root), "useradd", "-m", "-u", str(uid), "-s", "/bin/bash", name)
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755 if "/sbin/" in name else 0o644)
    for name, target in LINKS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)


def _install(root: Path) -> None:
    """Install the project's dependencies for the machine's Python, and a way to the checkout."""
    version = next((root / "usr" / "lib").glob("python3.*")).name.removeprefix("python")
    packages = root / "usr" / "local" / "lib" / f"python{version}" / "dist-packages"
    requirements = root.parent / "requirements.txt"
    requirements.write_text("\n".join(_requirements()))
    install = f"pip install --quiet --only-binary=:all: --python-version {version} --target"
    _run(sys.executable, "-m", *install.split(), str(packages), "-r", str(requirements))
    rooms = "".join(f"/checkout/{room}\n" for room in ("engine", "kernel", "magics"))
    (packages / "cellblock.pth").write_text(rooms)
    # The metadata alone: entry points and the version are found by it.
    wheel = root.parent / "wheel"
    install = "pip install --quiet --no-deps --target"
    _run(sys.executable, "-m", *install.split(), str(wheel), str(PROJECT))
    for metadata in wheel.glob("cellblock-*.dist-info"):
        shutil.copytree(metadata, packages / metadata.name)
    _run("chmod", "-R", "a+rX", str(packages))


def _run(*argv: str) -> None:
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr[-2000:]}")
