"""The machine of ``make test-vm`` is what its tests take it for, and cellblock works in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.lab import USER

pytestmark = pytest.mark.skipif(not USER, reason="needs the machine of make test-vm")


def cellblock(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cellblock", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env={**os.environ, "CELLBLOCK_HOME": str(home)},
    )


def own_group() -> Path:
    (line,) = Path("/proc/self/cgroup").read_text().splitlines()
    return Path("/sys/fs/cgroup") / line.removeprefix("0::").lstrip("/")


def test_control_groups_are_of_version_2_alone() -> None:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    assert {"cpu", "memory", "pids"} <= set(controllers)
    kinds = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    assert "cgroup2" in kinds
    assert "cgroup" not in kinds


def test_the_user_is_of_the_kind_that_was_ordered() -> None:
    assert (os.geteuid() == 0) == (USER == "root")
    ranges = [line.split(":")[0] for line in Path("/etc/subuid").read_text().splitlines()]
    assert ("subids" in ranges, "single" in ranges) == (True, False)


def test_control_groups_are_delegated_to_who_lingers_alone() -> None:
    group = own_group()
    if USER == "subids":
        assert f"user@{os.geteuid()}.service" in group.parts
    assert os.access(group / "cgroup.procs", os.W_OK) == (USER != "single")


def test_the_checkout_cannot_be_written_to() -> None:
    import cellblock_engine

    checkout = Path(cellblock_engine.__file__).parents[2]
    assert (checkout / "pyproject.toml").exists()
    assert os.statvfs(checkout).f_flag & os.ST_RDONLY


def test_doctor_tells_what_there_is(tmp_path: Path) -> None:
    done = cellblock(tmp_path / "store", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    for name in ("user namespaces", "overlay", "proc", "first process", "network none"):
        assert rows[name]["status"] == "ok", rows[name]
    assert rows["ids"]["status"] == ("partial" if USER == "single" else "ok"), rows["ids"]
    assert rows["control groups"]["found"].startswith("v2, ")
    limited = "missing" if USER == "single" else "ok"
    for name in ("--memory", "--cpus", "--pids-limit"):
        assert rows[f"limit {name}"]["status"] == limited, rows[f"limit {name}"]


def test_a_container_of_the_machines_own_files_runs(tmp_path: Path) -> None:
    done = cellblock(tmp_path / "store", "run", "--rm", "host", "true")
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "")
