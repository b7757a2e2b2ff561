"""An ordinary user with subordinate ids: many users inside, none of them another's outside."""

from __future__ import annotations

import json

from support.ordinary import OrdinaryUser

MANY = """
import json, os, subprocess, sys
print(json.dumps({
    "uid_map": [[int(n) for n in line.split()] for line in open("/proc/self/uid_map")],
    "setgroups": open("/proc/self/setgroups").read().strip(),
    "groups": os.getgroups(),
    "terminals": os.stat("/dev/pts").st_gid,
    "other": subprocess.run(["id", "-u"], user=1000, group=100, extra_groups=[7],
                            capture_output=True).stdout.decode(),
}))
"""
RUN = """
import json, sys
from cellblock_engine import Engine
with Engine.open() as engine:
    done = engine.run("host", [sys.executable, "-c", {program!r}])
    print(json.dumps([done.exit_code, done.stdout.decode(), done.stderr.decode()]))
    print(len(engine.containers()))
"""


def test_there_are_many_users_inside(subordinate_user: OrdinaryUser) -> None:
    done = subordinate_user.run_python(RUN.format(program=MANY))
    assert done.returncode == 0, done.stderr
    outcome, left = done.stdout.splitlines()
    status, stdout, stderr = json.loads(outcome)
    assert status == 0, stderr
    seen = json.loads(stdout)
    assert seen["uid_map"][0] == [0, subordinate_user.uid, 1]
    assert sum(count for _, _, count in seen["uid_map"]) > 1000
    assert (seen["setgroups"], seen["groups"], seen["other"]) == ("allow", [0], "1000\n")
    assert left == "0"


OTHERS = """
import os, sys
os.makedirs("/srv/closed/below")
open("/srv/closed/below/file", "w").close()
for path in ("/srv/closed/below/file", "/srv/closed/below", "/srv/closed"):
    os.chown(path, 1000, 1000)
os.chmod("/srv/closed", 0o700)
print("made")
"""
# One that ends by itself, and one whose monitor is killed.
REMOVED = """
import os, select, signal, sys, time
from cellblock_engine import Engine, Removal, RunRequest
engine = Engine.open()
folder = engine.home / "containers"
argv = (sys.executable, "-c", {program!r})

def left():
    deadline = time.monotonic() + 30
    while os.listdir(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return os.listdir(folder)

print(engine.run("host", argv).stdout, left())
script = ("sh", "-c", '"$@" && exec sleep 60', "sh", *argv)
request = RunRequest(argv=script, removal=Removal.AT_END)
attached = engine.spawn(request)
select.select([attached.stdout], [], [], 30)
print(os.read(attached.stdout, 100), len(os.listdir(folder)))
with open(f"/proc/{{attached.pid}}/stat") as file:
    monitor = int(file.read().rpartition(")")[2].split()[1])
os.kill(monitor, signal.SIGKILL)
print(left())
"""


def test_what_other_users_have_written_goes_with_the_container(
    subordinate_user: OrdinaryUser,
) -> None:
    done = subordinate_user.run_python(REMOVED.format(program=OTHERS))
    assert done.stdout.splitlines() == ["b'made\\n' []", "b'made\\n' 1", "[]"], done.stderr
