"""Where this process is: on which kernel, and in which container or virtual machine.

Being in a container takes nothing away by itself, so that is told, and what it means is told by
the rungs that are tried. But it says whose settings are in the way: :class:`Surroundings` words it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..linux.idmaps import own_ids
from .answers import Answers
from .check import CANNOT_RUN, Check

_LONGEST_FILE = 65536
_OLDEST_KERNEL = (5, 11)  # overlays in a user namespace
_OLDEST_OF_ROOT = (5, 19)  # and of idmapped mounts
_DAY_S = 86400
_OPTIONS = {
    "Docker": "docker run",
    "Podman": "podman run",
}


@dataclass(frozen=True)
class Surroundings:
    """What is around this process.

    ``containers`` are kinds of containers that show, the innermost first, each with what shows it.
    ``ids`` counts those of this user namespace, and is None where it has all. ``wsl`` is the
    version of the Windows Subsystem for Linux.
    """

    release: str
    containers: Mapping[str, str]
    wsl: int | None = None
    ids: int | None = None

    def allow(self, what: str, docker: str, *, elsewhere: str) -> str:
        """Return how to get something that the container around, or else the machine, refuses.

        ``docker`` are options for a container of Docker's or Podman's.
        """
        for kind, command in _OPTIONS.items():
            if kind in self.containers:
                return f"start the container around with {command} {docker}, or --privileged"
        if "Kubernetes" in self.containers:
            return (
                f"have the pod allow {what}: hostUsers: false with procMount: Unmasked and the "
                "seccomp profile Unconfined, or privileged: true"
            )
        return elsewhere


def look(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Surroundings:
    """Return what is around this process. ``root`` and ``environment`` are where it is looked."""
    count = own_ids()
    return Surroundings(
        release=os.uname().release,
        containers=dict(_containers(root, environment)),
        wsl=_wsl(_text(root / "proc/version")),
        ids=None if count >= 2**32 - 1 else count,
    )


def _containers(root: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if "KUBERNETES_SERVICE_HOST" in environment:
        yield "Kubernetes", "KUBERNETES_SERVICE_HOST"
    if "JUPYTERHUB_SERVICE_PREFIX" in environment or "JUPYTERHUB_API_URL" in environment:
        yield "JupyterHub", "JUPYTERHUB_*"
    if (root / "run/.containerenv").exists():
        yield "Podman", "/run/.containerenv"
    if (root / ".dockerenv").exists():
        yield "Docker", "/.dockerenv"
    named = environment.get("container") or _text(root / "run/systemd/container").strip()
    if named and named.isprintable() and named not in ("docker", "podman", "oci"):
        yield named[:40], "its own word"
    kind = root_kind(_text(root / "proc/self/mountinfo"))
    if kind in ("overlay", "fuse.fuse-overlayfs", "aufs"):
        yield "some container", f"/ is of {kind}"


def root_kind(mountinfo: str) -> str:
    """Return the type of the file system at ``/``, by a text as of proc_pid_mountinfo(5)."""
    kind = ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4:5] == ["/"]:
            kind = after.split()[0]
    return kind


def _wsl(version: str) -> int | None:
    words = version.lower()
    if "microsoft" not in words:
        return None
    return 2 if "wsl2" in words or "-microsoft-standard" in words else 1


def kernel(around: Surroundings, *, root: bool) -> Check:
    """Return the rung of the kernel's version."""
    numbers = around.release.partition("-")[0].split(".")[:2]
    version = tuple(int(word) for word in numbers if word.isdigit())
    oldest = _OLDEST_OF_ROOT if root else _OLDEST_KERNEL
    if version < oldest:
        lost = "idmapped mounts below an overlay, and so containers" if root else CANNOT_RUN
        remedy = f"use Linux {'.'.join(map(str, oldest))} or newer"
        return Check("kernel", "missing", around.release, lost, remedy)
    return Check("kernel", "ok", around.release)


def surroundings(around: Surroundings) -> Check:
    """Return the rung of what is around."""
    if around.wsl == 1:
        return Check(
            "surroundings",
            "missing",
            "WSL 1, which has no Linux kernel",
            CANNOT_RUN,
            "wsl --set-version DISTRIBUTION 2",
        )
    parts = [f"in {kind} ({sign})" for kind, sign in around.containers.items()]
    if around.wsl == 2:
        parts.append("in WSL 2")
    if around.ids is not None:
        parts.append(f"in a user namespace of {around.ids} id{'s' if around.ids != 1 else ''}")
    return Check("surroundings", "ok", ", ".join(parts) or "no container shows")


def first_process(answer: str | None, around: Surroundings) -> Check:
    """Return the rung of whoever takes orphans."""
    if answer is None:
        return Check("first process", "ok", "reaps orphans")
    return Check(
        "first process",
        "partial",
        answer,
        "an entry in the table of processes for each that outlives its parent, until none is free",
        around.allow(
            "an init", "--init", elsewhere="start an init first, such as tini, and the rest below"
        ).removesuffix(", or --privileged"),
    )


def clock(now_s: float | None = None) -> Check:
    """Return the rung of the time: a clock that is behind makes certificates invalid."""
    written_s = Path(__file__).stat().st_mtime
    behind_s = written_s - (time.time() if now_s is None else now_s)
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if behind_s < _DAY_S:
        return Check("clock", "ok", told)
    return Check(
        "clock",
        "partial",
        f"{told}, {behind_s / _DAY_S:.0f} days before cellblock was installed",
        "pulls and pushes over TLS: certificates are not valid yet",
        "set the clock, or let systemd-timesyncd or chrony do it",
    )


def all_rungs(answers: Answers, around: Surroundings, *, root: bool) -> Iterator[Check]:
    """Yield the rungs of the machine as a whole."""
    yield kernel(around, root=root)
    yield surroundings(around)
    yield first_process(answers["reaping"], around)
    yield clock()


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST_FILE)
    except OSError:
        return ""
