"""The host image as an ordinary user: one id, no limits that need root, nothing left behind."""

from __future__ import annotations

import json

import pytest

from support.ordinary import OrdinaryUser

PORTRAIT = """
import json, os
import pandas
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "pid": os.getpid(),
    "uid": os.getuid(),
    "uid_map": [[int(n) for n in line.split()] for line in open("/proc/self/uid_map")],
    "links": os.listdir("/sys/class/net"),
    "home": os.listdir("/home") + os.listdir("/root"),
    "seccomp": int(status["Seccomp"]),
    "no_new_privs": int(status["NoNewPrivs"]),
    "rows": len(pandas.DataFrame([1, 2, 3])),
}))
"""
RUN = """
import json, sys
from cellblock_engine import Engine
with Engine.open() as engine:
    done = engine.run("host", [sys.executable, "-c", {program!r}])
    print(json.dumps([done.exit_code, done.stdout.decode(), done.stderr.decode()]))
"""
LIMITED = """
import sys
from cellblock_engine import Engine, Limits, errors
with Engine.open() as engine:
    try:
        engine.run("host", ["true"], limits=Limits({limit}))
    except errors.LimitNotEnforceable as error:
        print(error)
    print(len(engine.containers()), file=sys.stderr)
"""


def test_host_image(ordinary_user: OrdinaryUser) -> None:
    done = ordinary_user.run_python(RUN.format(program=PORTRAIT))
    assert done.returncode == 0, done.stderr
    status, stdout, stderr = json.loads(done.stdout)
    assert status == 0, stderr
    seen = json.loads(stdout)
    assert seen["pid"] == 2
    assert seen["uid"] == 0
    assert seen["uid_map"] == [[0, ordinary_user.uid, 1]]
    assert seen["links"] == ["lo"]
    assert seen["home"] == []
    assert seen["seccomp"] == 2
    assert seen["no_new_privs"] == 1
    assert seen["rows"] == 3


@pytest.mark.parametrize(
    ("limit", "named"), [("memory='64m'", "memory"), ("pids=64", "pids"), ("cpus=1", "cpu")]
)
def test_limits_are_refused_by_name(ordinary_user: OrdinaryUser, limit: str, named: str) -> None:
    done = ordinary_user.run_python(LIMITED.format(limit=limit))
    assert done.returncode == 0, done.stderr
    assert named in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert done.stderr.strip() == "0"


def test_command_line(ordinary_user: OrdinaryUser) -> None:
    done = ordinary_user.run_cellblock("run", "--rm", "host", "sh", "-c", "id -u; exit 3")
    assert (done.returncode, done.stdout) == (3, "0\n"), done.stderr


def test_writes_to_the_system_stay_inside(ordinary_user: OrdinaryUser) -> None:
    script = "touch /usr/bin/cellblock-was-here /cellblock-was-here; ls /usr/bin | wc -l"
    done = ordinary_user.run_cellblock("run", "--rm", "host", "sh", "-c", script)
    assert int(done.stdout) > 10, done.stderr
    look = ordinary_user.run(["ls", "/usr/bin/cellblock-was-here", "/cellblock-was-here"])
    assert look.returncode != 0
