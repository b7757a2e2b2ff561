"""Memory, processes and processors are limited by the kernel, or the limit is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from support.lab import Lab

FORKS = """
import os, signal
children = []
try:
    while len(children) < 40:
        if (pid := os.fork()) == 0:
            signal.pause()
        children.append(pid)
except BlockingIOError:
    print("refused after", len(children))
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""
BURN = """
import time
end = time.monotonic() + 2
while time.monotonic() < end:
    pass
print(time.process_time())
"""


@pytest.mark.usefixtures("enforced_limits")
def test_a_command_beyond_its_memory_gets_the_verdict(lab: Lab) -> None:
    code = "import os; os.write(1, b'begun'); bytearray(200 << 20)"
    words = ["run", "--name", "greedy", "-m", "64m", lab.image, "python3", "-c", code]
    done = lab.run(*words)
    try:
        assert (done.returncode, done.stdout) == (137, "begun")
        assert "out of memory: the limit of 64 MiB was reached" in done.stderr
        assert (row := lab.listed("greedy")) is not None
        assert row["verdict"].startswith("out of memory")
        assert row["memory_limit_bytes"] == 64 << 20
    finally:
        lab.said("rm", "-f", "greedy")


@pytest.mark.usefixtures("enforced_limits")
def test_memory_within_the_limit_is_there(lab: Lab) -> None:
    code = "print(len(bytearray(40 << 20)))"
    said = lab.said("run", "--rm", "-m", "128m", lab.image, "python3", "-c", code)
    assert said == f"{40 << 20}\n"


@pytest.mark.usefixtures("enforced_limits")
def test_processes_beyond_the_limit_are_refused(lab: Lab) -> None:
    done = lab.run("run", "--rm", "--pids-limit", "10", lab.image, "python3", "-c", FORKS)
    assert (done.returncode, done.stdout) == (0, "refused after 9\n"), done.stderr


@pytest.mark.usefixtures("enforced_limits")
def test_processors_are_limited(lab: Lab) -> None:
    used = float(lab.said("run", "--rm", "--cpus", "0.25", lab.image, "python3", "-c", BURN))
    assert 0.1 < used < 1.2  # a quarter of two seconds, and what was begun with


@pytest.mark.usefixtures("enforced_limits")
def test_limits_change_while_it_runs_and_stats_tell_them(lab: Lab) -> None:
    lab.said("run", "-d", "--name", "changed", "-m", "64m", lab.image, "sleep", "1000")
    try:
        lab.said("update", "-m", "96m", "--pids-limit", "50", "changed")
        (row,) = lab.rows("stats", "changed")
        assert (row["memory_limit_bytes"], row["pids_limit"]) == (96 << 20, 50)
        assert 0 < row["memory_bytes"] < 64 << 20
        assert row["pids"] >= 1
        code = "bytearray(80 << 20); print('fits')"
        assert lab.said("exec", "changed", "python3", "-c", code) == "fits\n"
    finally:
        lab.said("rm", "-f", "changed")


@pytest.mark.usefixtures("no_limits")
@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [("-m", "64m", "memory"), ("--pids-limit", "50", "pids"), ("--cpus", "1", "cpu")],
)
def test_a_limit_that_cannot_be_enforced_is_refused_by_name(
    lab: Lab, flag: str, value: str, name: str
) -> None:
    before = lab.rows("ps", "-a")
    done = lab.run("run", flag, value, lab.image, "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
    assert lab.rows("ps", "-a") == before


@pytest.mark.usefixtures("no_limits")
def test_at_best_effort_rlimits_take_their_place(lab: Lab) -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    words = ["run", "--rm", "--limits=best-effort", "-m", "256m", lab.image, "python3", "-c", code]
    done = lab.run(*words)
    assert (done.returncode, done.stdout) == (0, f"{256 << 20}\n"), done.stderr
    assert "memory" in done.stderr


def test_doctor_tells_which_limits_are_enforced(
    lab: Lab, tmp_path: Path, limits_are_enforced: bool
) -> None:
    empty = replace(lab, home=tmp_path / "store")  # one with an image is read from end to end
    rows = {row["name"]: row for row in json.loads(empty.run("doctor", "--json").stdout)}
    for flag in ("--memory", "--cpus", "--pids-limit"):
        row = rows[f"limit {flag}"]
        assert (row["status"] == "ok") == limits_are_enforced, row
        assert limits_are_enforced or (row["lost"] and row["remedy"]), row
