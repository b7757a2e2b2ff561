"""What stays out of an image: by habit, and by patterns; removals never do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from cellblock_engine import CommitRequest, Engine, InvalidInput, RunRequest
from cellblock_engine.commit import Commit
from support.commits import archived, ended, names_in

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("root")

WRITE = """
import os
def write(path, text="new"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
"""
CACHES = (
    WRITE
    + """
for path in ("/tmp/a/b", "/var/tmp/c", "/run/d", "/root/.cache/pip/http/e", "/var/lib/apt/lists/l",
             "/home/jo/.cache/pip/f", "/var/cache/apt/pkgcache.bin",
             "/var/cache/apt/archives/g.deb"):
    write(path)
os.chmod("/tmp", 0o1770)
"""
)


@pytest.fixture
def engine(committing_engine: Engine) -> Engine:
    return committing_engine


def committed(engine: Engine, **asked: Any) -> Commit:
    return engine.commit("box", "mine/box", CommitRequest(squash=True, **asked))


def told(engine: Engine, image: Commit) -> set[str]:
    """Return the names in the layer that was added, which packs again to its diffID."""
    assert image.added is not None
    return names_in(archived(engine, image.added))


def test_caches_and_passing_things_stay_out(engine: Engine, base_image: str):
    ended(engine, base_image, CACHES + "write('/srv/kept')")
    image = committed(engine)
    # directories that somebody made stay, and so does what was changed in one that is there
    assert told(engine, image) == {
        ".", "tmp", "home", "home/jo", "home/jo/.cache", "root", "root/.cache", "srv", "srv/kept",
    }  # fmt: skip
    everything = told(engine, committed(engine, default_excludes=False))
    assert {"tmp/a/b", "run/d", "var/lib/apt/lists/l", "root/.cache/pip/http/e"} <= everything
    others = told(engine, committed(engine, exclude=("!tmp/a", "srv", "**/.cache")))
    assert others == {".", "home", "home/jo", "tmp", "tmp/a", "tmp/a/b"}


def test_what_is_excluded_is_no_change(engine: Engine, base_image: str):
    ended(engine, base_image, WRITE + "write('/tmp/a/b'); write('/opt/data/c')")
    image = committed(engine, exclude=("/opt/data/",))
    assert (image.added, image.layers) == (None, engine.image(base_image).layers)


REMOVALS = (
    WRITE
    + """
import shutil
os.unlink("/etc/default/" + os.listdir("/etc/default")[0])
write("/etc/default/added")
shutil.rmtree("/etc/security"); write("/etc/security/added")
os.unlink("/etc/debian_version"); write("/etc/debian_version/added")
write("/etc/issue")
os.unlink("/etc/issue.net")
write("/etc/fresh/added"); os.link("/etc/fresh/added", "/srv/linked")
"""
)


@pytest.mark.parametrize("running", [False, True])
def test_what_was_removed_stays_removed(engine: Engine, base_image: str, *, running: bool):
    before = engine.run(base_image, ["ls", "-A", "/etc", "/etc/default"]).stdout.decode().split()
    if running:
        code = REMOVALS + "print('ready', flush=True); input()"
        argv = ("python3", "-c", code)
        request = RunRequest(image=base_image, argv=argv, name="box", interactive=True)
        container = engine.start(request)
        deadline = time.monotonic() + 30
        while not any(b"ready" in record.data for record in container.logs()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    else:
        ended(engine, base_image, REMOVALS)
    image = committed(engine, exclude=("etc/*",))
    names = told(engine, image)
    assert {"etc/.wh.debian_version", "etc/.wh.issue.net", "etc/.wh.security"} <= names
    assert names & {"etc/issue", "etc/fresh", "etc/.wh.fresh", "etc/default/added"} == set()
    seen = engine.run("mine/box", ["ls", "-A", "/etc", "/etc/default"]).check().stdout.decode()
    gone = set(before) - set(seen.split())
    assert {"debian_version", "issue.net", "security"} < gone
    assert len(gone) == 4  # and one of /etc/default
    assert set(seen.split()) - set(before) == set()
    read = engine.run("mine/box", ["cat", "/etc/issue", "/srv/linked"]).check().stdout
    assert read.endswith(b"new")
    assert read != b"newnew"  # the image's own, and the link's content


def test_an_exception_in_what_is_excluded(engine: Engine, base_image: str):
    code = WRITE + "write('/data/in/keep/x'); write('/data/in/y'); write('/other/z')"
    code += "; import shutil; shutil.rmtree('/etc/default'); write('/etc/default/b')"
    ended(engine, base_image, code)
    exclude = ("data", "!data/in/keep", "other", "etc/default/**", "!**/nothing")
    names = told(engine, committed(engine, exclude=exclude))
    assert names == {
        ".", "data", "data/in", "data/in/keep", "data/in/keep/x",
        "etc", "etc/default", "etc/default/.wh..wh..opq",
    }  # fmt: skip
    assert engine.run("mine/box", ["ls", "-A", "/etc/default"]).stdout == b""


@pytest.mark.attack(40)
def test_hostile_names_in_what_is_excluded(engine: Engine, base_image: str):
    code = WRITE + "write('/tmp/.wh.passwd'); write('/tmp/.wh..wh..opq')\nopen(%r, 'w')"
    ended(engine, base_image, code % b"/srv/\xff\n")
    assert told(engine, committed(engine)) == {".", "srv", "srv/\udcff\n"}
    assert committed(engine, exclude=("srv/?\n",)).added is None


def act(engine: Engine, code: str) -> None:
    """Have the running container do something, for long enough ago to be told from what follows."""
    engine.container("box").exec(["python3", "-c", WRITE + "import shutil\n" + code]).check()
    time.sleep(0.06)


def seen(engine: Engine, *paths: str) -> list[str]:
    """Return which files are shown, and what they say."""
    code = "import os, sys\nfor top in sys.argv[1:]:\n for d, _, names in os.walk(top):\n"
    code += "  for name in names: path = d + '/' + name; print(path + '=' + open(path).read())"
    ran = engine.run("mine/box", ["python3", "-c", code, *paths]).check()
    return sorted(ran.stdout.decode().split())


def test_commits_that_stack(engine: Engine, base_image: str):
    """What is excluded is as the commit before has it, unless it was removed since."""
    engine.start(RunRequest(image=base_image, argv=("cat",), name="box", interactive=True))
    act(engine, "write('/srv/a/x', '1'); write('/srv/b', '1'); write('/srv/c/y', '1')")
    act(engine, "write('/tmp/p/q'); write('/srv/e/z', '1'); shutil.rmtree('/etc/default')")
    first = engine.commit("box", "mine/box")
    act(engine, "write('/srv/a/x', '2'); write('/srv/a/new', '2'); write('/srv/kept', '2')")
    act(engine, "os.unlink('/srv/b'); write('/srv/c/z', '2'); os.unlink('/srv/c/y')")
    act(engine, "shutil.rmtree('/srv/e'); write('/srv/e/z', '2'); shutil.rmtree('/tmp/p')")
    exclude = CommitRequest(exclude=("srv/*", "!srv/kept", "etc"))
    second = engine.commit("box", "mine/box", exclude)
    assert second.layers[:-1] == first.layers
    assert seen(engine, "/srv", "/tmp") == ["/srv/a/x=1", "/srv/e/z=1", "/srv/kept=2"]
    nothing = engine.commit("box", "mine/box", exclude)
    assert nothing.added is None, told(engine, nothing)
    third = engine.commit("box", "mine/box")
    assert third.layers[:-1] == second.layers
    assert told(engine, third) >= {"srv/a/x", "srv/a/new", "srv/c/z", "srv/e/z"}
    assert "srv/kept" not in told(engine, third)
    everything = ["/srv/a/new=2", "/srv/a/x=2", "/srv/c/z=2", "/srv/e/z=2", "/srv/kept=2"]
    assert seen(engine, "/srv", "/tmp", "/etc/default") == everything
    assert committed(engine).layers[:-1] == engine.image(base_image).layers
    assert seen(engine, "/srv", "/tmp", "/etc/default") == everything


def test_what_was_in_a_directory_that_is_a_file_now_stays_removed(engine: Engine, base_image: str):
    """The file is left out; with it, all that the images below have there would come back."""
    engine.start(RunRequest(image=base_image, argv=("cat",), name="box", interactive=True))
    act(engine, "shutil.rmtree('/etc/default'); write('/etc/default')")
    act(engine, "shutil.rmtree('/etc/security'); os.symlink('x', '/etc/security')")
    act(engine, "write('/etc/mine/a'); write('/etc/cron.daily/a', '1')")
    exclude = CommitRequest(exclude=("etc/default", "etc/security", "etc/cron.daily"))
    first = engine.commit("box", "mine/box", exclude)
    assert {"etc/.wh.default", "etc/.wh.security"} < told(engine, first)
    act(engine, "shutil.rmtree('/etc/mine'); write('/etc/mine')")
    act(engine, "shutil.rmtree('/etc/cron.daily'); write('/etc/cron.daily')")
    exclude = CommitRequest(exclude=("etc/*",))
    second = engine.commit("box", "mine/box", exclude)
    assert second.layers[:-1] == first.layers
    assert told(engine, second) == {".", "etc", "etc/.wh.cron.daily", "etc/.wh.mine"}
    assert engine.commit("box", "mine/box", exclude).added is None
    gone = ("/etc/default", "/etc/security", "/etc/mine", "/etc/cron.daily")
    found = engine.run("mine/box", ["sh", "-c", f"ls -d {' '.join(gone)}; true"]).check().stdout
    assert found == b""
    engine.commit("box", "mine/box")
    assert engine.run("mine/box", ["cat", "/etc/default", "/etc/mine"]).check().stdout == b"newnew"


def test_passing_things_do_not_unstack(engine: Engine, base_image: str):
    engine.start(RunRequest(image=base_image, argv=("cat",), name="box", interactive=True))
    act(engine, "write('/tmp/p/q'); write('/run/r/s/t'); write('/srv/a')")
    engine.commit("box", "mine/box")
    act(engine, "shutil.rmtree('/tmp/p'); shutil.rmtree('/run/r'); write('/tmp/u/v')")
    second = engine.commit("box", "mine/box")
    assert second.added is None, told(engine, second)


def test_patterns_that_cannot_be_meant(engine: Engine):
    for pattern in ("", "../x", "[a"):
        with pytest.raises(InvalidInput, match="pattern"):
            CommitRequest(exclude=(pattern,))


def test_the_flags(engine: Engine, base_image: str, cellblock: Cellblock):
    ended(engine, base_image, WRITE + "write('/srv/a.log'); write('/srv/b'); write('/tmp/c')")
    done = cellblock("commit", "--exclude", "**/*.log", "--no-default-excludes", "box", "mine/box")
    assert (done.returncode, done.stderr) == (0, "")
    assert cellblock("run", "--rm", "mine/box", "ls", "/srv", "/tmp").stdout.split() == [
        "/srv:", "b", "/tmp:", "c",
    ]  # fmt: skip
    refused = cellblock("commit", "--exclude", "..", "box")
    assert (
        refused.stderr
        == "cellblock: pattern '..' names nothing: write a path from the root, as var/cache/*\n"
    )
