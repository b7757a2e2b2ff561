"""The life of a container as its user sees it."""

from __future__ import annotations

import time

from support.lab import TIMEOUT_S, Lab


def test_it_is_started_looked_at_and_stopped(lab: Lab) -> None:
    script = "echo begun; echo aside >&2; trap 'echo ended; exit 5' TERM; while :; do sleep 1; done"
    lab.said("create", "--name", "box", lab.image, "sh", "-c", script)
    try:
        lab.said("start", "box")
        _until_logged(lab, "begun")
        done = lab.run("exec", "-i", "box", "sh", "-c", "cat; echo > /made; exit 4", stdin="given")
        assert (done.returncode, done.stdout) == (4, "given"), done.stderr
        assert {"path": "/made"}.items() <= lab.rows("diff", "box")[0].items()
        lab.said("stop", "-t", "60", "box")
        assert lab.said("logs", "box").splitlines() == ["begun", "ended"]
        assert (row := lab.listed("box")) is not None
        assert (row["status"], row["exit_code"]) == ("exited", 5)
    finally:
        lab.said("rm", "-f", "box")


def test_what_it_wrote_is_there_when_it_is_started_again(lab: Lab) -> None:
    script = "mkdir -p /srv/kept; echo >> /srv/kept/lines; wc -l < /srv/kept/lines"
    lab.said("create", "--name", "again", lab.image, "sh", "-c", script)
    try:
        assert lab.said("start", "-a", "again") == "1\n"
        assert lab.said("start", "-a", "again") == "2\n"
    finally:
        lab.said("rm", "-f", "again")


def test_stats_count_a_running_one(lab: Lab) -> None:
    lab.said("run", "-d", "--name", "counted", lab.image, "sleep", "1000")
    try:
        (row,) = lab.rows("stats", "counted")
        assert row["name"] == "counted"
        assert row["pids"] is None or row["pids"] >= 1
        assert row["memory_bytes"] is None or row["memory_bytes"] > 0
    finally:
        lab.said("rm", "-f", "counted")
    assert lab.listed("counted") is None


def _until_logged(lab: Lab, line: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while line not in lab.said("logs", "box").splitlines():
        assert time.monotonic() < deadline
        time.sleep(0.1)
