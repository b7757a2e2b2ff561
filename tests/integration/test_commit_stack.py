"""Commits of one container stack: each layer holds what has changed since the last, no more.

``CELLBLOCK_STACKS`` is how many random stacks are made; 2 unless it is given.
"""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cellblock_engine import (
    CommitRequest,
    Conflict,
    Container,
    Digest,
    Engine,
    RunRequest,
    StoreFull,
)
from cellblock_engine.commit import Commit
from cellblock_engine.layout import Layout
from cellblock_engine.store import commitnote, marks
from cellblock_engine.store.marks import Marks
from cellblock_engine.store.pack import pack
from support import capabilities
from support.umoci import assert_same_tree

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("root")

SEEDS = range(int(os.environ.get("CELLBLOCK_STACKS", "2")))
OPERATIONS = r"""
import os, random, shutil, sys
random = random.Random(int(sys.argv[1]))
KEPT = {b"/etc/" + name for name in (b"hosts", b"hostname", b"resolv.conf", b"passwd", b"group")}
KEPT |= {b"/play", b"/etc"}

def names(kind):
    found = []
    for top in (b"/play", b"/etc"):
        for directory, directories, files in os.walk(top):
            found += [os.path.join(directory, name) for name in directories + files]
    found = sorted(set(found) - KEPT)
    tests = {
        "file": lambda p: os.path.isfile(p) and not os.path.islink(p),
        "directory": lambda p: os.path.isdir(p) and not os.path.islink(p),
        "any": lambda p: True,
    }
    return [path for path in found if tests[kind](path)]

def some(kind):
    found = names(kind)
    return random.choice(found) if found else None

def fresh():
    directory = random.choice([b"/play", b"/etc", *names("directory")])
    return os.path.join(directory, b"n%d" % random.randrange(40))

def remove(path):
    if path is None or path in KEPT or not os.path.lexists(path):
        return
    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

def write(path):
    if path and not os.path.isdir(path) and not os.path.islink(path):
        open(path, "wb").write(random.randbytes(random.randrange(3000)))

def create():
    write(fresh())

def make():
    path = fresh()
    if not os.path.lexists(path):
        os.makedirs(path + b"/deep" * random.randrange(3))

def rename():
    source, target = some("any"), fresh()
    if source and not (target + b"/").startswith(source + b"/"):
        remove(target)
        try:
            os.rename(source, target)
        except OSError:  # EXDEV: a directory of a layer
            pass

def replace_by_directory():
    path = some("any")
    if path:
        remove(path)
        os.mkdir(path)
        write(path + b"/inside")

def replace_by_file():
    path = some("directory")
    if path:
        remove(path)
        write(path)

def anew():
    path = some("directory")
    if path:
        kept = sorted(os.listdir(path))[:1]
        remove(path)
        os.mkdir(path)
        for name in kept:
            write(os.path.join(path, name))

def link():
    source, target = some("file"), fresh()
    if source and not os.path.lexists(target):
        os.link(source, target)

def symlink():
    target = fresh()
    if not os.path.lexists(target):
        os.symlink(random.choice([b"..", b"/etc/passwd", b"nowhere"]), target)
        os.chown(target, 5, 6, follow_symlinks=False)

def chmod():
    path = some("any")
    if path and not os.path.islink(path):
        os.chmod(path, random.choice([0o700, 0o4755, 0o644, 0o1777]))

def chown():
    path = some("any")
    if path:
        os.chown(path, random.randrange(2000), 7, follow_symlinks=False)

def xattr():
    path = some("any")
    if path and not os.path.islink(path) and (os.path.isfile(path) or os.path.isdir(path)):
        os.setxattr(path, b"user.n%d" % random.randrange(2), random.randbytes(4))

def touch():
    path = some("file")
    if path:
        os.utime(path, ns=(7, random.randrange(2 * 10**18)))

def append():
    path = some("file")
    if path:
        status = os.stat(path)
        with open(path, "r+b") as file:
            file.write(b"x")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had been

os.makedirs("/play", exist_ok=True)
operations = [
    create, create, make, rename, rename, replace_by_directory, replace_by_file, anew, link, link,
    symlink, chmod, chown, xattr, touch, append, append,
    lambda: remove(some("any")), lambda: remove(some("file")), lambda: write(some("file")),
]
for _ in range(int(sys.argv[2])):
    random.choice(operations)()
"""
LISTING = r"""
import hashlib, json, os, stat
own = [b"/etc/hosts", b"/etc/hostname", b"/etc/resolv.conf"]
found = {}
for top in (b"/play", b"/etc", b"/opt", b"/srv"):
    for directory, directories, files in os.walk(top):
        for name in [b"."] + files + directories:
            path = os.path.normpath(os.path.join(directory, name))
            if path in own:
                continue
            s = os.lstat(path)
            shape = [s.st_mode, s.st_uid, s.st_gid]
            if not stat.S_ISDIR(s.st_mode):
                shape += [s.st_nlink, s.st_mtime_ns]
            if stat.S_ISREG(s.st_mode):
                shape.append(hashlib.sha256(open(path, "rb").read()).hexdigest())
            if stat.S_ISLNK(s.st_mode):
                shape.append(os.readlink(path).hex())
            else:
                shape.append({k: os.getxattr(path, k).hex() for k in sorted(os.listxattr(path))})
            found[path.hex()] = shape
print(json.dumps(found, sort_keys=True))
"""


@pytest.fixture
def engine(committing_engine: Engine) -> Engine:
    return committing_engine


@pytest.fixture
def box(engine: Engine, base_image: str) -> Container:
    """A container that runs, and in which Python can be run."""
    return engine.start(RunRequest(image=base_image, argv=("sleep", "600"), name="box"))


def done(container: Container, code: str, *arguments: str) -> str:
    result = container.exec(["python3", "-IS", "-c", code, *arguments], timeout=60)
    assert (result.exit_code, result.stderr) == (0, b""), result.stderr.decode()[-2000:]
    return result.stdout.decode()


def long_ago(container: Container, code: str) -> None:
    """Run code whose changes are older than a clock's tick when this returns."""
    done(container, code)
    time.sleep(0.06)


def shown(engine: Engine, image: str) -> Any:
    result = engine.run(image, ["python3", "-IS", "-c", LISTING])
    assert (result.exit_code, result.stderr) == (0, b"")
    return json.loads(result.stdout)


def names(engine: Engine, commit: Commit) -> set[str]:
    """Return what the layer that a commit added tells of."""
    assert commit.added is not None
    fd = os.open(engine._store.layers.path(commit.added), os.O_RDONLY)
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(pack(fd)))) as archive:
            return set(archive.getnames()) - {"."}
    finally:
        os.close(fd)


def steps(engine: Engine, image: str) -> list[str]:
    return [row.comment for row in engine.history(image)]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_image_is_what_the_container_was(
    engine: Engine, box: Container, seed: int, tmp_path: Path
):
    layers = engine.image(box.inspect().image).layers
    for number in range(5):
        done(box, OPERATIONS, str(seed * 100 + number), "25")
        if number == 2:
            box.stop(0)
        elif number == 3:
            time.sleep(0.06)
        image = engine.commit("box", f"mine/box:{number}")
        assert image.layers[:-1] == layers
        layers = image.layers
        if number == 2:
            engine.start("box")
        seen = json.loads(done(box, LISTING))
        assert shown(engine, f"mine/box:{number}") == seen
    again = engine.commit("box", "mine/box:again", CommitRequest(squash=True))
    assert len(again.layers) == len(layers) - 4
    assert shown(engine, "mine/box:again") == seen
    if seed == 0:
        capabilities.need_program("skopeo")
        engine.save(["mine/box:4"], tmp_path / "saved.tar")
        source, layout = f"oci-archive:{tmp_path}/saved.tar", tmp_path / "layout"
        copy = ["skopeo", "copy", "--insecure-policy", "--quiet", source, f"oci:{layout}:saved"]
        subprocess.run(copy, check=True, timeout=120)
        assert_same_tree(f"{layout}:saved", engine._store.layers.chain(layers), tmp_path)


def apart(found: dict[str, list[Any]], prefix: bytes) -> dict[str, list[Any]]:
    """Return what is in no path with a name of this prefix, which others may link to."""
    kept = {}
    for path, (mode, *shape) in found.items():
        if not any(name.startswith(prefix) for name in bytes.fromhex(path).split(b"/")):
            kept[path] = [mode, *(shape if stat.S_ISDIR(mode) else shape[:2] + shape[3:])]
    return kept


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_excluded_now_and_then_changes_nothing_else(
    engine: Engine, box: Container, seed: int
):
    missing = 0
    for number in range(4):
        done(box, OPERATIONS, str(seed * 100 + number), "25")
        engine.commit("box", "mine/box", CommitRequest(exclude=("**/n1*",)))
        seen, kept = json.loads(done(box, LISTING)), shown(engine, "mine/box")
        assert apart(kept, b"n1") == apart(seen, b"n1")
        missing += len(seen.keys() - kept.keys())
        if number == 1:
            engine.commit("box", "mine/box")
            assert shown(engine, "mine/box") == seen
    assert missing


def test_a_layer_holds_what_has_changed_since(engine: Engine, box: Container):
    long_ago(box, "import os; os.makedirs('/srv/a/b')\nfor n in 'xyz': open('/srv/a/' + n, 'w')")
    first = engine.commit("box", "mine/box:1", CommitRequest(comment="first"))
    assert box.inspect().committed == first.id
    long_ago(box, "import os; os.unlink('/srv/a/x'); open('/srv/a/b/new', 'w')")
    second = engine.commit("box", "mine/box:2", CommitRequest(comment="second"))
    assert second.layers == (*first.layers, second.added)
    assert names(engine, second) == {"srv", "srv/a", "srv/a/.wh.x", "srv/a/b", "srv/a/b/new"}
    assert steps(engine, "mine/box:2")[:2] == ["second", "first"]
    third = engine.commit("box", "mine/box:3", CommitRequest(comment="third"))
    assert (third.added, third.layers) == (None, second.layers)
    squashed = engine.commit("box", "mine/box:4", CommitRequest(comment="all", squash=True))
    assert squashed.layers[:-1] == first.layers[:-1]
    assert {"srv/a/y", "srv/a/z", "srv/a/b/new"} <= names(engine, squashed)
    assert steps(engine, "mine/box:4") == ["all", *steps(engine, "mine/box:3")[3:]]
    assert engine.commit("box", "mine/box:5").layers == squashed.layers
    assert box.inspect().committed == engine.image("mine/box:5").id


MEANWHILE = """
import os
os.unlink('/srv/gone'); os.rename('/srv/d', '/srv/e'); os.chmod('/srv/mode', 0o4711)
open('/srv/grown', 'a').write('more'); open('/srv/shorter', 'w'); os.removexattr('/srv/x', 'user.x')
os.link('/srv/one', '/srv/{0}'); os.symlink('{0}', '/srv/l{0}'); os.mkdir('/srv/new{0}')
os.unlink('/srv/kind'); os.mkdir('/srv/kind')
"""


def test_what_changes_while_it_is_copied(
    engine: Engine, box: Container, monkeypatch: pytest.MonkeyPatch
):
    """What was copied by then is taken over where it is right, at first and in a stack."""
    standing_still = Container.standing_still

    @contextmanager
    def later(self: Container) -> Iterator[None]:
        done(box, MEANWHILE.format(next(rounds)))
        with standing_still(self):
            yield

    monkeypatch.setattr(Container, "standing_still", later)
    rounds = iter(range(2))
    for _ in range(2):
        long_ago(
            box,
            "import os, shutil; shutil.rmtree('/srv/e', True); os.makedirs('/srv/d/deep')\n"
            "shutil.rmtree('/srv/kind', True)\n"
            "for n in 'gone mode grown shorter x one kind d/deep/f'.split():\n"
            "    open('/srv/' + n, 'w').write(n * 9000)\n"
            "os.setxattr('/srv/x', 'user.x', b'x')",
        )
        engine.commit("box", "mine/box")
        assert shown(engine, "mine/box") == json.loads(done(box, LISTING))


MAPPED = """
import mmap, os, time
file = open("/srv/mapped", "w+b"); file.truncate(4096)
seen = mmap.mmap(file.fileno(), 4096); seen[0:1] = b"."
while True:
    for name in "abc":
        if os.path.exists("/tmp/" + name):
            seen[0:1] = name.encode(); os.unlink("/tmp/" + name)
    time.sleep(0.01)
"""
WRITE = """
import os, time
open("/tmp/{0}", "w")
while os.path.exists("/tmp/{0}"): time.sleep(0.01)
"""


def test_mapped_memory_in_a_store_in_memory(base_image: str, tmp_path: Path):
    """There, nothing but the first of the writes to it shows in a file's times."""
    home = tmp_path / "memory"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", home], check=True)
    try:
        with Engine.open(home / "store") as own:
            own.pull(base_image)
            argv = ("python3", "-c", MAPPED)
            mapping = own.start(RunRequest(image=base_image, argv=argv, name="mapping"))
            for letter in "abc":
                long_ago(mapping, WRITE.format(letter))
                own.commit("mapping", "mine/box")
                found = own.run("mine/box", ["head", "-c1", "/srv/mapped"])
                assert found.stdout == letter.encode()
            mapping.remove(force=True)
    finally:
        subprocess.run(["umount", "-l", home], check=True)


def test_all_names_of_a_file_are_in_one_layer(engine: Engine, box: Container):
    long_ago(
        box, "import os; os.mkdir('/srv/d'); open('/srv/d/a', 'w'); os.link('/srv/d/a', '/srv/b')"
    )
    engine.commit("box", "mine/box:1")
    long_ago(box, "import os; os.rename('/srv/d', '/srv/e')")
    second = engine.commit("box", "mine/box:2")
    assert names(engine, second) == {
        "srv",
        "srv/.wh.d",
        "srv/b",
        "srv/e",
        "srv/e/a",
        *opaque("srv/e"),
    }
    long_ago(box, "import os; os.unlink('/srv/b')")
    third = engine.commit("box", "mine/box:3")
    assert names(engine, third) == {"srv", "srv/.wh.b", "srv/e", "srv/e/a"}
    assert engine.run("mine/box:3", ["stat", "-c", "%h", "/srv/e/a"]).stdout == b"1\n"


def opaque(path: str) -> set[str]:
    return {f"{path}/.wh..wh..opq"}


def test_an_inode_that_another_file_has_now(engine: Engine, box: Container):
    """Its content differs, and its times that can be set do not."""
    code = "import os; open('/srv/f', 'w').write('{}'); os.utime('/srv/f', ns=(5, 5))"
    long_ago(box, code.format(1))
    engine.commit("box", "mine/box:1")
    done(box, "import os; os.unlink('/srv/f')\n" + code.format(2))
    engine.commit("box", "mine/box:2")
    assert engine.run("mine/box:2", ["cat", "/srv/f"]).stdout == b"2"


def test_a_file_written_in_the_tick_of_a_commit_is_told_again(engine: Engine, box: Container):
    """However fast writes and commits follow each other."""
    for number in range(6):
        done(box, f"open('/srv/f', 'w').write('{number}')")
        engine.commit("box", "mine/box")
        assert engine.run("mine/box", ["cat", "/srv/f"]).stdout == str(number).encode()


def test_without_the_last_image_it_builds_on_its_own(engine: Engine, box: Container):
    base = engine.image(box.inspect().image)
    long_ago(box, "open('/srv/one', 'w')")
    first = engine.commit("box", "mine/box:1")
    engine.remove_image("mine/box:1", force=True)
    assert box.inspect().committed is None
    long_ago(box, "open('/srv/two', 'w')")
    second = engine.commit("box", "mine/box:2")
    assert second.layers[:-1] == base.layers == first.layers[:-1]
    assert {"srv/one", "srv/two"} <= names(engine, second)
    engine.tag("mine/box:2", "mine/other")
    engine.remove_image("mine/box:2")
    assert engine.commit("box", "mine/box:3").layers == second.layers  # that has another name


@pytest.mark.parametrize("damage", [b"", b"{}\n[]\n", b"\xff" * 100, None])
def test_a_damaged_note_is_none(engine: Engine, box: Container, damage: bytes | None):
    long_ago(box, "open('/srv/one', 'w')")
    first = engine.commit("box", "mine/box:1")
    note = box.directory / "commit.json"
    assert note.stat().st_mode & 0o777 == 0o600
    note.write_bytes(note.read_bytes()[:-9] if damage is None else damage)
    assert engine.commit("box", "mine/box:2").layers == first.layers
    assert commitnote.read(box.directory) is not None


def test_two_at_once_take_turns(engine: Engine, box: Container):
    made: list[Commit] = []

    def committing(number: int) -> None:
        with Engine.open(engine.home) as own:
            made.append(own.commit("box", f"mine/box:{number}"))

    long_ago(box, "for n in range(300): open(f'/srv/{n}', 'w')")
    threads = [threading.Thread(target=committing, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(made) == 4
    assert [commit.added is None for commit in made] == [False, True, True, True]
    assert len({commit.layers for commit in made}) == 1
    assert box.inspect().committed == made[-1].id


def test_one_that_takes_too_long_is_not_waited_for(
    engine: Engine, box: Container, monkeypatch: pytest.MonkeyPatch
):
    import fcntl

    monkeypatch.setattr("cellblock_engine.commit._TURN_S", 0.05)
    fd = os.open(box.directory / "commit.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(Conflict, match="container box, which is being committed, is in use"):
        engine.commit("box", "mine/box")
    os.close(fd)
    engine.commit("box", "mine/box")


def test_a_failure_leaves_the_note_as_it_was(
    engine: Engine, box: Container, monkeypatch: pytest.MonkeyPatch
):
    long_ago(box, "open('/srv/one', 'w')")
    first = engine.commit("box", "mine/box:1")
    noted = (box.directory / "commit.json").read_bytes()
    long_ago(box, "open('/srv/two', 'wb').write(bytes(100_000))")

    def full(_: object) -> None:
        raise StoreFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(engine._store.layers, "keep", full)
        with pytest.raises(StoreFull):
            engine.commit("box", "mine/box:2")
    assert (box.directory / "commit.json").read_bytes() == noted
    second = engine.commit("box", "mine/box:2")
    assert second.layers[:-1] == first.layers


def test_a_commit_that_is_killed_before_its_note(
    engine: Engine, box: Container, cellblock: Cellblock
):
    """The image is there, and the next commit builds on the one that is noted."""
    long_ago(box, "open('/srv/one', 'w')")
    first = engine.commit("box", "mine/box:1")
    long_ago(box, "open('/srv/two', 'w')")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom cellblock_engine import Engine\n"
        "from cellblock_engine.store import commitnote\n"
        "commitnote.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Engine.open(Path(sys.argv[1])).commit('box', 'mine/box:2')\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, engine.home], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    second = engine.image("mine/box:2")
    assert second.layers[:-1] == first.layers
    assert box.inspect().committed == first.id
    third = engine.commit("box", "mine/box:3")
    assert third.layers == second.layers
    assert cellblock("inspect", "box").returncode == 0


def test_a_whiteout_that_is_gone_is_no_basis(engine: Engine, box: Container):
    """No container can do that; whoever does gets an image that is right and larger."""
    long_ago(box, "import os; os.unlink('/etc/issue'); open('/srv/one', 'w')")
    first = engine.commit("box", "mine/box:1")
    box.stop(0)
    (box.directory / "upper0" / "fs" / "etc" / "issue").unlink()
    second = engine.commit("box", "mine/box:2")
    assert second.layers[:-1] == first.layers[:-1]
    assert engine.run("mine/box:2", ["cat", "/etc/issue"]).exit_code == 0


def test_it_goes_on_after_a_push(engine: Engine, box: Container):
    """Which gives the image another manifest, and the first goes with the next collection."""
    long_ago(box, "open('/srv/one', 'w').write('1')")
    first = engine.commit("box", "mine/box:1")
    store = engine._store
    with store.referencing():
        reference = first.references[0]
        raw, manifest = store.images.manifest(first.manifest)
        other = raw.replace(b'"schemaVersion": 2', b'"schemaVersion":  2')
        store.blobs.keep(Digest.of(other), other)
        store.images.supersede(reference, first.manifest, Digest.of(other))
        assert manifest.layers
    store.images.collect()
    assert not (Layout.default(engine.home).blobs / first.manifest.hex).exists()
    long_ago(box, "open('/srv/two', 'w').write('2')")
    assert engine.commit("box", "mine/box:2").layers[:-1] == first.layers


def test_as_many_as_can_be_stacked(engine: Engine, box: Container, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cellblock_engine.commit.MAX_LAYERS", 2)
    long_ago(box, "open('/srv/one', 'w')")
    engine.commit("box", "mine/box:1")
    with pytest.raises(Conflict, match=r"has 2 layers, as many .* commit it with --squash"):
        engine.commit("box", "mine/box:2")
    assert len(engine.commit("box", "mine/box:2", CommitRequest(squash=True)).layers) == 2


def test_the_verb(engine: Engine, box: Container, cellblock: Cellblock):
    long_ago(box, "open('/srv/one', 'w')")
    first = engine.image(cellblock("commit", "box").stdout.strip())
    long_ago(box, "open('/srv/two', 'w')")
    second = engine.image(cellblock("commit", "box", "mine/box").stdout.strip())
    assert second.layers[:-1] == first.layers
    squashed = engine.image(cellblock("commit", "--squash", "box").stdout.strip())
    assert squashed.layers[:-1] == first.layers[:-1]
    found = json.loads(cellblock("inspect", "box").stdout)
    assert found[0]["committed"] == str(squashed.id)


def test_a_file_that_becomes_huge_while_it_is_copied_fills_no_disk(
    base_engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch
):
    container = base_engine.start(
        RunRequest(image=base_image, argv=("cat",), name="box", interactive=True)
    )
    container.exec(["sh", "-c", "echo small > /srv/file; echo other > /srv/other"]).check()
    file = Path(container.directory) / "upper0" / "fs" / "srv" / "file"
    sizes = iter((1 << 40, 6))
    take = marks.take

    def taken(*args: Any, moving: bool = False, **more: Any) -> Marks:
        size = next(sizes)
        if not moving:
            os.truncate(file, size)
            return take(*args, moving=moving, **more)
        found = take(*args, moving=moving, **more)
        os.truncate(file, size)
        return found

    monkeypatch.setattr(marks, "take", taken)
    base_engine.commit("box", "mine/box")
    ran = base_engine.run("mine/box", ["cat", "/srv/file", "/srv/other"]).check()
    assert ran.stdout == b"small\nother\n"


def test_attributes_that_come_and_go_hold_no_commit_up(base_engine: Engine, base_image: str):
    code = "import os\nos.close(os.open('/srv/x', os.O_CREAT)); print('ready', flush=True)\n"
    code += "while True: os.setxattr('/srv/x', 'user.a', b'1'); os.removexattr('/srv/x', 'user.a')"
    request = RunRequest(image=base_image, argv=("python3", "-c", code), name="box")
    container = base_engine.start(request)
    deadline = time.monotonic() + 30
    while not any(b"ready" in record.data for record in container.logs()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(20):
        base_engine.commit("box", "mine/box")
