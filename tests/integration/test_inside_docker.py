"""In a container of Docker's the doctor tells the truth: what it has works, what it lacks fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from support.docker import Docker
from support.ordinary import PROJECT, ROOMS

pytestmark = pytest.mark.usefixtures("root")

TIMEOUT_S = 120
UNCONFINED = tuple(
    word
    for each in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")
    for word in ("--security-opt", each)
)
CGROUPS = ("--volume", "/sys/fs/cgroup:/sys/fs/cgroup")
Rows = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Around:
    """Docker with an image that has Python, in which containers see this project."""

    docker: Docker
    image: str

    def run(self, options: tuple[str, ...], *argv: str) -> subprocess.CompletedProcess[str]:
        """Run the cellblock command in a new container."""
        rooms = ":".join(f"{PROJECT}/{room}" for room in ROOMS.values())
        seen = {sys.prefix, str(PROJECT)} | {sys.base_prefix} - {"/usr"}
        words = [
            *("run", "--rm", "--network", "none", "--volume", "/store"),
            *(word for path in sorted(seen) for word in ("--volume", f"{path}:{path}:ro")),
            *("--env", f"PYTHONPATH={rooms}", "--env", "CELLBLOCK_HOME=/store"),
            *("--env", "PYTHONDONTWRITEBYTECODE=1", *options, self.image),
            *(sys.executable, "-m", "cellblock", *argv),
        ]
        return subprocess.run(
            self.docker.argv(*words),
            capture_output=True,
            check=False,
            text=True,
            timeout=TIMEOUT_S,
        )

    def doctor(self, *options: str) -> tuple[int, Rows]:
        """Return the command's exit status, and its rows by their names."""
        done = self.run(options, "doctor", "--json")
        assert done.stderr == ""
        return done.returncode, {row["name"]: row for row in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def around(docker: Docker, base_image: str) -> Around:
    docker("pull", base_image)
    return Around(docker, base_image)


@pytest.fixture(scope="module")
def privileged(around: Around) -> tuple[str, ...]:
    """Return --privileged, or what it means where this machine itself lacks a capability."""
    if around.run(("--privileged",), "version").returncode == 0:
        return ("--privileged",)
    return (*UNCONFINED, "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", *CGROUPS)


def test_by_default_it_forbids_containers(around: Around) -> None:
    status, rows = around.doctor()
    assert status == 1
    assert "in Docker (/.dockerenv)" in rows["surroundings"]["found"]
    missing = {name for name, row in rows.items() if row["status"] == "missing"}
    assert {"user namespaces", "namespaces", "overlay", "limit --memory"} <= missing
    assert "docker run --security-opt seccomp=unc" in rows["user namespaces"]["remedy"]
    assert rows["overlay"]["remedy"] == "get user namespaces first"
    done = around.run((), "run", "--rm", "host", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert len(done.stderr.splitlines()) == 1
    assert rows["user namespaces"]["found"].rpartition(": ")[2] in done.stderr


def test_a_privileged_one_has_all(around: Around, privileged: tuple[str, ...]) -> None:
    status, rows = around.doctor("--init", *privileged)
    lacking = {name for name, row in rows.items() if row["status"] != "ok"}
    assert (status, lacking - {"limit --blkio-weight"}) == (0, set())
    limits = ("--memory", "64m", "--cpus", "0.5", "--pids-limit", "64")
    done = around.run(privileged, "run", "--rm", *limits, "host", "echo", "on")
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")


@pytest.mark.parametrize("user", ["0:0", "1234:1234"])
def test_what_the_remedy_names_is_enough(around: Around, user: str) -> None:
    options = (*UNCONFINED, "--user", user, "--env", "CELLBLOCK_HOME=/tmp/store")
    options += ("--tmpfs", "/tmp:exec,mode=1777")
    status, rows = around.doctor(*options)
    assert (status, rows["ids"]["status"]) == (0, "partial"), rows
    assert f"a single id, {user}" in rows["ids"]["found"]
    assert rows["first process"]["status"] == "partial"
    assert "docker run --init" in rows["first process"]["remedy"]
    done = around.run(options, "run", "--rm", "host", "echo", "on")
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")
    assert rows["limit --memory"]["status"] == "missing"
    refused = around.run(options, "run", "--rm", "-m", "64m", "host", "true")
    assert refused.returncode == 125
    assert "memory" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
