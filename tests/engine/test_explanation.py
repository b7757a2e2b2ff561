"""The plan of a start in words, beside what a start of the same request then has."""

from __future__ import annotations

import os

import pytest

from cellblock_engine import Bind, ImageNotFound, InvalidInput, Limits, RunRequest, Tmpfs, Ulimit
from cellblock_engine.linux import cgroups
from support import capabilities

pytestmark = pytest.mark.usefixtures("root")


def test_the_plan_says_what_a_start_then_does(engine, tmp_path):
    (tmp_path / "data").mkdir()
    request = RunRequest(
        argv=("sleep", "100"),
        network="host",
        user="daemon",
        binds=(Bind(tmp_path / "data", "/data"),),
        tmpfs=(Tmpfs("/t", 4096),),
        read_only=True,
        cap_drop=("ALL",),
        cap_add=("CHOWN",),
        ulimits=(Ulimit("nofile", 64, 128),),
        timeout_s=90,
    )
    sections = engine.explain(request).sections
    assert sections["command"] == ("sleep 100", "image host, user daemon, in /root")
    assert "net: the host's, not its own" in sections["namespaces"]
    assert {"time: 90 s", "ulimit nofile: 64:128"} <= set(sections["limits"])
    assert sections["capabilities of user 0"] == ("CHOWN",)
    absent = "\n".join(sections["not in force here"])
    assert "--network host was asked for" in absent
    assert "a limit of its own on memory" in absent
    for name, reason in cgroups.discover(os.getpid()).missing().items():
        (line,) = [line for line in absent.splitlines() if line.endswith(f": {reason}")]
        assert name in line.removeprefix("a limit on ").partition(":")[0].split(", ")
    assert engine.containers() == ()

    mounts = engine.start(request).exec(["cat", "/proc/self/mounts"]).stdout.decode()
    found = {line.split()[1] for line in mounts.splitlines()}
    planned = [
        line.partition(" on ")[2].split()[0] for line in sections["mounts"] if " on " in line
    ]
    assert {"/", "/proc", "/dev/shm", "/data", "/t"} <= set(planned) <= {*found, "/dev"}


def test_limits_are_named(engine):
    capabilities.need_memory_cgroup()
    limits = Limits(memory="64m", cpus=0.5, pids=7)
    lines = engine.explain(RunRequest(argv=("true",), limits=limits)).lines()
    for line in ("  memory: 64 MiB", "  swap: none", "  cpus: 0.5", "  processes and threads: 7"):
        assert line in lines
    assert lines[0] == "command:"


def test_what_a_start_would_refuse_the_plan_refuses(engine):
    with pytest.raises(ImageNotFound):
        engine.explain(RunRequest(image="nosuch:latest"))
    with pytest.raises(InvalidInput, match="cannot bind /"):
        engine.explain(RunRequest(argv=("true",), binds=(Bind("/", "/host"),)))
