"""The host image as an ordinary user: one id, no limits that need root, nothing left behind."""

from __future__ import annotations

import json

import pytest

from support import capabilities
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
    if {name!r} not in engine.info().missing_limits:
        sys.exit("enforced")
    try:
        engine.run("host", ["true"], limits=Limits({limit}))
    except errors.LimitNotEnforceable as error:
        print(error)
    print(len(engine.containers()), file=sys.stderr)
"""
KERNEL = """
import os, pathlib
from jupyter_client.manager import start_new_kernel
folder = pathlib.Path.home() / "notebooks"
folder.mkdir()
said = []
def run(code):
    show = lambda message: said.append(message["content"].get("text", ""))
    return kc.execute_interactive(code, output_hook=show, timeout=30)["content"]["status"]
km, kc = start_new_kernel(kernel_name="boxed", cwd=str(folder))
run("import os; print(os.getuid(), [n for n in os.listdir('/sys/class/net')])")
run("open('made', 'w').write('inside'); open('/root/kept', 'w').write('kept')")
km.restart_kernel()
kc.wait_for_ready(timeout=30)
run("print(open('/root/kept').read())")
run("%container info")
kc.stop_channels()
km.shutdown_kernel(now=True)
uid, kept, name, _, image, *_ = "".join(said).split("\\n")
print([uid, kept, name[:5], image[-4:]], (folder / "made").stat().st_uid == os.getuid())
"""


def test_host_image(rootless_user: OrdinaryUser) -> None:
    done = rootless_user.run_python(RUN.format(program=PORTRAIT))
    assert done.returncode == 0, done.stderr
    status, stdout, stderr = json.loads(done.stdout)
    assert status == 0, stderr
    seen = json.loads(stdout)
    assert seen["pid"] == 2
    assert seen["uid"] == 0
    assert seen["uid_map"][0] == [0, rootless_user.uid, 1]
    assert (len(seen["uid_map"]) > 1) is rootless_user.has_subordinate_ids
    assert seen["links"] == ["lo"]
    assert seen["home"] == []
    assert seen["seccomp"] == 2
    assert seen["no_new_privs"] == 1
    assert seen["rows"] == 3


@pytest.mark.parametrize(
    ("limit", "named"), [("memory='64m'", "memory"), ("pids=64", "pids"), ("cpus=1", "cpu")]
)
def test_limits_are_refused_by_name(rootless_user: OrdinaryUser, limit: str, named: str) -> None:
    done = rootless_user.run_python(LIMITED.format(limit=limit, name=limit.partition("=")[0]))
    if done.stderr == "enforced\n":
        pytest.skip(f"needs a user who has no control groups for {named}")
    assert done.returncode == 0, done.stderr
    assert named in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert done.stderr.strip() == "0"


def test_command_line(rootless_user: OrdinaryUser) -> None:
    done = rootless_user.run_cellblock("run", "--rm", "host", "sh", "-c", "id -u; exit 3")
    assert (done.returncode, done.stdout) == (3, "0\n"), done.stderr


def test_writes_to_the_system_stay_inside(rootless_user: OrdinaryUser) -> None:
    script = "touch /usr/bin/cellblock-was-here /cellblock-was-here; ls /usr/bin | wc -l"
    done = rootless_user.run_cellblock("run", "--rm", "host", "sh", "-c", script)
    assert int(done.stdout) > 10, done.stderr
    look = rootless_user.run(["ls", "/usr/bin/cellblock-was-here", "/cellblock-was-here"])
    assert look.returncode != 0


def test_a_container_of_the_host_image_is_no_image(rootless_user: OrdinaryUser) -> None:
    assert rootless_user.run_cellblock("run", "--name", "box", "host", "true").returncode == 0
    done = rootless_user.run_cellblock("commit", "box", "mine/box")
    assert (done.returncode, done.stdout) == (125, "")
    assert "its files are this machine's own" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert rootless_user.run_cellblock("rm", "box").returncode == 0


LAYER = """
import io, os, stat, tarfile
from pathlib import Path
from cellblock_engine.layout import Layout
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.manifest import OCI_LAYER
from cellblock_engine.store import Store
from cellblock_engine.store.pack import pack

tree = Path("tree")
(tree / "below").mkdir(parents=True)
(tree / "below/file").write_text("x")
(tree / "below/file").chmod(0o4755)
os.link(tree / "below/file", tree / "twin")
os.setxattr(tree / "twin", "user.note", b"1")
os.setxattr(tree / "below", "user.overlay.opaque", b"y")
os.mknod(tree / "gone", stat.S_IFCHR, os.makedev(0, 0))
archive = b"".join(pack(os.open(tree, os.O_RDONLY)))
store = Store(Layout.default())
blob = Path("blob").absolute()
blob.write_bytes(archive)
diffid = Digest.of(archive)
store.layers.extract(blob, OCI_LAYER, diffid)
layer = store.layers.path(diffid)
print(b"".join(pack(os.open(layer, os.O_RDONLY))) == archive)
print({(member.uid, member.gid) for member in tarfile.open(fileobj=io.BytesIO(archive))})
print(oct((layer / "twin").stat().st_mode), (layer / "below/file").stat().st_uid == os.getuid())
"""


def test_a_layer_of_ones_own_files_is_roots_in_its_archive(rootless_user: OrdinaryUser) -> None:
    done = rootless_user.run_python(LAYER)
    assert done.stdout == "True\n{(0, 0)}\n0o104755 True\n", done.stderr


EVERYWHERE = """
import os, shutil, subprocess
from pathlib import Path

true = shutil.which("true")
Path("/srv/script").write_text("#!/bin/sh\\nexec true\\n")
for place in ("/srv/true", "/mnt/true"):
    shutil.copy(true, place)
os.chmod("/srv/script", 0o755)
memfd = os.memfd_create("true")
os.write(memfd, Path(true).read_bytes())
opened = os.open("/srv/true", os.O_RDONLY)
os.link("/srv/true", "/opt/true")
os.rename("/srv/true", "/opt/true-moved")
for program in ("true", true, "/srv/script", "/opt/true", "/opt/true-moved", "/mnt/true",
                "/mnt/script", f"/proc/self/fd/{memfd}", f"/proc/self/fd/{opened}"):
    status = subprocess.run([program], pass_fds=[memfd, opened]).returncode
    print(program, status)
os.mkdir("/mnt/folder")
os.rename("/mnt/true", "/mnt/folder/true")
print("moved", subprocess.run(["/mnt/folder/true"]).returncode)
"""
WITH_FOLDER = """
import sys
from pathlib import Path
from cellblock_engine import Bind, Engine, RunRequest
folder = Path("folder").absolute()
folder.mkdir()
(folder / "script").write_text("#!/bin/sh\\nexec true\\n")
(folder / "script").chmod(0o755)
argv = (sys.executable, "-c", {program!r})
with Engine.open() as engine:
    bind = Bind(folder, "/mnt", writable=True)
    container = engine.start(RunRequest(argv=argv, binds=(bind,)))
    container.wait(timeout_s=30)
    print(b"".join(record.data for record in container.logs()).decode())
    container.remove()
"""


def test_programs_run_from_everywhere_inside(rootless_user: OrdinaryUser) -> None:
    done = rootless_user.run_python(WITH_FOLDER.format(program=EVERYWHERE))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 10, done
    assert [line for line in lines if not line.endswith(" 0")] == []


BOUND = """
import os, pathlib, sys
from cellblock_engine import Bind, Engine, Removal, RunRequest, Tmpfs
data = pathlib.Path.home() / "bound"
data.mkdir()
(data / "secret").write_text("mine")
(data / "secret").chmod(0o600)
script = "cat /data/secret; echo made > /data/made; ! touch /x 2>/dev/null && touch /t/x && ls /t"
request = RunRequest(
    argv=("sh", "-c", script),
    binds=(Bind(data, "/data", writable=True),),
    tmpfs=(Tmpfs("/t", 4096),),
    read_only=True,
    removal=Removal.AT_END,
)
with Engine.open() as engine, engine.spawn(request) as attached:
    out, err, end = attached.communicate(None, most_bytes=1000)
print(end.exit_code, out, err, (data / "made").stat().st_uid == os.getuid())
"""


def test_binds_memory_and_a_read_only_root(rootless_user: OrdinaryUser) -> None:
    done = rootless_user.run_python(BOUND)
    assert done.stdout == "0 b'minex\\n' b'' True\n", done.stderr


WRITTEN = """
from cellblock_engine import Engine, Removal, RunRequest
script = "stat -c %u:%g / /usr; head -c 2000000 /dev/zero > /srv/x; stat -c %s /srv/x"
for limit in (None, 1000000):
    request = RunRequest(argv=("sh", "-c", script), storage_bytes=limit, removal=Removal.AT_END)
    with Engine.open() as engine, engine.spawn(request) as attached:
        print(attached.communicate(None, most_bytes=1000)[0].split())
"""


def test_what_is_written_to_disk_or_memory_is_roots_inside(rootless_user: OrdinaryUser) -> None:
    capabilities.need_attributes_in_memory()
    done = rootless_user.run_python(WRITTEN)
    on_disk, in_memory = done.stdout.splitlines()
    assert on_disk == "[b'0:0', b'0:0', b'2000000']", done.stderr
    assert in_memory == "[b'0:0', b'0:0', b'1003520']", done.stderr  # whole pages


EXPLAINED = """
from cellblock_engine import Engine, RunRequest
with Engine.open() as engine:
    print("\\n".join(engine.explain(RunRequest(argv=("true",))).lines()))
"""


EXPLANATIONS = {
    False: (
        "there is no other id",
        "  users other than 0: no subordinate ids (see doctor); or run as root",
    ),
    True: (
        "1 to 65535 are subordinate ids of that user",
        "  ids of its own: all containers of this user have the same; run as root",
    ),
}


def test_the_plan_of_a_start_names_what_is_not_in_force(rootless_user: OrdinaryUser) -> None:
    lines = rootless_user.run_python(EXPLAINED).stdout.splitlines()
    ids, absent = EXPLANATIONS[rootless_user.has_subordinate_ids]
    assert f"  user: 0 is user {rootless_user.uid} outside, {ids}" in lines
    assert absent in lines[lines.index("not in force here:") :]


RESET = """
import json, os
from cellblock_engine import Engine, RunRequest
engine = Engine.open()
script = "mkdir -p /srv/a/b && touch /srv/a/b/c && chmod 0 /srv/a/b && chmod 500 /srv/a"
engine.run("host", ["sh", "-c", script], remove=False)
engine.start(RunRequest(argv=("sleep", "600")))
removed = engine.reset(force=True)
print(json.dumps([removed.containers, os.path.exists(engine.home)]))
"""


def test_a_store_is_reset_whatever_modes_are_in_it(rootless_user: OrdinaryUser) -> None:
    done = rootless_user.run_python(RESET)
    assert done.returncode == 0, done.stderr
    containers, is_there = json.loads(done.stdout)
    assert containers >= 2
    assert not is_there


def test_a_notebook_kernel(rootless_user: OrdinaryUser) -> None:
    done = rootless_user.run_cellblock("kernel", "install", "host", "--user", "--name", "boxed")
    assert done.returncode == 0, done.stderr
    done = rootless_user.run_python(KERNEL, timeout_s=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[\"0 ['lo']\", 'kept', 'name:', 'host'] True"
    left = rootless_user.run_cellblock("ps", "-a", "-q")
    assert (left.returncode, left.stdout) == (0, ""), left.stderr
    assert [each.name for each in (rootless_user.home / "run").rglob("front*")] == []


def test_changes_are_read_and_what_has_ended_is_pruned(rootless_user: OrdinaryUser):
    code = """
from cellblock_engine import Engine
with Engine.open() as engine:
    script = "echo 1 > /tmp/written; mkdir -p /srv/a; chmod 700 /srv/a"
    engine.run("host", ["sh", "-ec", script], name="box", remove=False)
    print(*(change.change + change.path for change in engine.diff("box")))
    print(*engine.prune(images="used").containers, len(engine.containers()))
"""
    done = rootless_user.run([rootless_user.python, "-c", code])
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["C/srv A/srv/a C/tmp A/tmp/written", "box 0"]
