"""What this machine lets a test do, by the kernel's own names. A skip names what is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

CAP_SYS_ADMIN = 21
CAP_SETUID = 7


def has_capability(number: int) -> bool:
    """Return whether this process has capability ``number`` (``capabilities(7)``) in effect."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def need_capability(number: int, name: str) -> None:
    """Skip the calling test unless capability ``number`` is in effect."""
    if not has_capability(number):
        pytest.skip(f"needs {name}")


def need_program(name: str) -> str:
    """Return the path of a program; skip the calling test where it is not installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"needs the program {name}")
    return path


def need_memory_cgroup() -> None:
    """Skip the calling test where its process may not make a control group that limits memory."""
    from cellblock_engine.linux import cgroups

    if reason := cgroups.discover(os.getpid()).missing().get("memory"):
        pytest.skip(f"needs a control group that limits memory: {reason}")


def need_attributes_in_memory() -> None:
    """Skip the calling test where a tmpfs has no user attributes, which layers in memory have."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        try:
            os.setxattr(file.fileno(), "user.cellblock", b"")
        except OSError as error:
            pytest.skip(f"needs user attributes on tmpfs, of Linux 6.6: {error.strerror}")


def need_linux(major: int, minor: int, what: str) -> None:
    """Skip the calling test on a kernel before the one that brought ``what``."""
    running = tuple(int(word) for word in re.findall(r"\d+", platform.release())[:2])
    if running < (major, minor):
        pytest.skip(f"needs {what}, of Linux {major}.{minor}")


def need_user_namespaces() -> None:
    """Skip the calling test where an ordinary user may not make a user namespace."""
    for name, refusing in (
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() == refusing:
            pytest.skip(f"needs unprivileged user namespaces (sysctl {name} is {refusing})")


def need_host(name: str, port: int) -> None:
    """Skip the calling test where this host cannot be reached."""
    try:
        socket.create_connection((name, port), timeout=5).close()
    except OSError as error:
        pytest.skip(f"needs {name}:{port}: {error}")


def need_package_index() -> None:
    """Skip the calling test where what this machine's pip asks for packages cannot be reached."""
    from cellblock_kernel.kernelspecs.machine import Machine

    for host in Machine.read().hosts:
        name, _, port = host.removesuffix("/private").partition(":")
        try:
            socket.create_connection((name, int(port or 443)), timeout=5).close()
        except OSError as error:
            pytest.skip(f"needs the package index {name}: {error}")
