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


FOLDER = """
import os, pathlib
from cellblock_engine import Bind, Engine, Removal, RunRequest, StartFailed, Tmpfs
folder = pathlib.Path.home() / "shared"
folder.mkdir(mode=0o755)
(folder / "public").write_text("public ")
(folder / "private").write_text("private")
(folder / "private").chmod(0o600)
script = "cat /data/p*; echo x > /data/by$(id -u); echo x > /t/x; ls -n /t; echo >/dev/stdout"
for user in ("0", "1000:100", "65536"):
    request = RunRequest(
        argv=("sh", "-c", script), user=user, binds=(Bind(folder, "/data", writable=True),),
        tmpfs=(Tmpfs("/t", 4096),), removal=Removal.AT_END,
    )
    try:
        with Engine.open() as engine, engine.spawn(request) as attached:
            print(attached.communicate(None, most_bytes=1000)[0].split())
    except StartFailed as error:
        print(error)
print(sorted(os.listdir(folder)), (folder / "by0").stat().st_uid == os.getuid())
"""


def test_a_bound_folder_is_user_0s_and_others_are_others_there(
    subordinate_user: OrdinaryUser,
) -> None:
    done = subordinate_user.run_python(FOLDER)
    root, other, none, after = done.stdout.splitlines()
    assert root.startswith("[b'privatepublic', b'total'")
    assert other.startswith("[b'public', b'total', b'4', b'-rw-r--r--', b'1', b'1000', b'100'")
    assert none == "cannot start as user '65536': users end at 65535 in this container"
    assert after == "['by0', 'private', 'public'] True", done.stderr


BROKER = """
import os, signal, time
from cellblock_engine import Engine, RunRequest
engine = Engine.open()
container = engine.start(RunRequest(argv=("sleep", "60"), allow_hosts=("localhost:1",)))

def broker():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read()
        except OSError:
            continue
        if command.startswith(b"cellblock-broker " + container.id[:12].encode()):
            return name

deadline = time.monotonic() + 20
while not (pid := broker()) or os.stat(f"/proc/{pid}").st_uid == os.getuid():
    assert time.monotonic() < deadline
with open(f"/proc/{pid}/status") as file:
    status = dict(line.split(":", 1) for line in file)
print(*status["Uid"].split(), *status["Groups"].split(), int(status["CapPrm"], 16))
container.remove(force=True)
print(broker())
"""


def test_who_lets_connections_out_is_nobody_on_the_host(subordinate_user: OrdinaryUser) -> None:
    done = subordinate_user.run_python(BROKER)
    assert done.returncode == 0, done.stderr
    who, after = done.stdout.splitlines()
    *ids, capabilities = map(int, who.split())
    assert len(set(ids)) == 1
    assert ids[0] not in (0, subordinate_user.uid)
    assert (capabilities, after) == (0, "None")


ASKED = """
import os, sys
from cellblock_engine import Engine
engine = Engine.open()
argv = (sys.executable, "-c", {program!r})
left = []
for verb in ("rm", "prune", "reset"):
    engine.run("host", argv, name=verb, remove=False)
    there = len(os.listdir(engine.home / "containers"))
    match verb:
        case "rm":
            engine.container(verb).remove()
        case "prune":
            engine.prune(images="used")
        case "reset":
            engine.reset()
    folder = engine.home / "containers"
    left.append((there, len(os.listdir(folder)) if folder.exists() else 0))
print(left, engine.home.exists())
"""


def test_a_container_of_others_files_is_removed_when_asked(subordinate_user: OrdinaryUser) -> None:
    done = subordinate_user.run_python(ASKED.format(program=OTHERS))
    assert done.stdout == "[(1, 0), (1, 0), (1, 0)] False\n", done.stderr


def test_without_new_privileges_a_store_of_many_ids_is_refused_by_name(
    subordinate_user: OrdinaryUser,
) -> None:
    homes = {
        name: {"CELLBLOCK_HOME": str(subordinate_user.home / name)} for name in ("many", "one")
    }
    command = [subordinate_user.python, "-m", "cellblock", "run", "--rm", "host", "id", "-u"]
    barred = ["setpriv", "--no-new-privs", *command]
    assert subordinate_user.run(command, env=homes["many"]).stdout == "0\n"
    done = subordinate_user.run(barred, env=homes["many"])
    assert (done.returncode, done.stdout) == (125, "")
    assert "which newuidmap cannot give to a process with no_new_privs" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = subordinate_user.run(barred, env=homes["one"])
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
