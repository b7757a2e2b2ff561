"""Files of containers in flat archives, beside GNU tar and the kernel's overlay; and back."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cellblock_engine import (
    Bind,
    Engine,
    ImportRequest,
    InvalidArchive,
    InvalidInput,
    RunRequest,
    StoreError,
    Unsupported,
)
from cellblock_engine.archive import source
from cellblock_engine.layout import Layout
from cellblock_engine.store.unpacking import Caps
from support import capabilities, tars
from support.commits import ended
from support.treelist import Node, differences, stacked, tree
from support.umoci import assert_same_tree

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("root")

CHANGES = r"""
import os, shutil, socket, struct
os.mkdir("/work"); open("/work/new", "w").write("new\n"); os.link("/work/new", "/work/twin")
os.chown("/work/twin", 1000, 1001); os.chmod("/work/new", 0o4750)
os.symlink("../etc/passwd", "/work/link"); os.mkfifo("/work/pipe")
socket.socket(socket.AF_UNIX).bind("/work/socket")
open(b"/work/\xff\n" + b"n" * 200, "w").write("odd name"); open("/work/.wh.name", "w")
os.setxattr("/work/new", "user.note", b"\0\n=")
os.setxattr("/work/new", "security.capability", struct.pack("<5I", 0x02000000, 1 << 10, 0, 0, 0))
os.utime("/work/link", ns=(5, 1_700_000_000_123_456_789), follow_symlinks=False)
os.unlink("/etc/issue"); open("/etc/issue.net", "w").write("changed")
shutil.rmtree("/etc/default"); os.mkdir("/etc/default"); open("/etc/default/only", "w").close()
os.unlink("/etc/debian_version"); os.mkdir("/etc/debian_version")
open("/shared/of the container", "w").write("stays on the host")
"""


@pytest.fixture
def box(base_engine: Engine, base_image: str, tmp_path: Path) -> Iterator[Engine]:
    """The engine with a container that has changed much, ``box``; its images go at the end."""
    kept = {image.id for image in base_engine.images()}
    (tmp_path / "shared").mkdir()
    ended(
        base_engine,
        base_image,
        CHANGES,
        binds=(Bind(tmp_path / "shared", "/shared", writable=True),),
    )
    yield base_engine
    for image in base_engine.images():
        if image.id not in kept:
            base_engine.remove_image(str(image.id), force=True)


def extracted(archive: Path, target: Path) -> dict[bytes, Node]:
    """Return the tree that GNU tar makes of an archive."""
    target.mkdir()
    words = (
        "--numeric-owner --same-permissions --xattrs --xattrs-include=* --delay-directory-restore"
    )
    argv = ["tar", "-C", target, "-xf", archive, *words.split()]
    subprocess.run(argv, check=True, timeout=100)
    return tree(target)


def shown(engine: Engine, name: str, scratch: Path) -> dict[bytes, Node]:
    """Return the tree that the kernel's overlay makes of a container's directories."""
    container = engine.container(name)
    image = engine.image(str(container.inspect().image_id))
    layers = [*engine._store.layers.chain(image.layers), container.directory / "upper0" / "fs"]
    found = stacked(layers, scratch)
    return {path: node for path, node in found.items() if path != b"work/socket"}


def stored(engine: Engine) -> list[str]:
    layout = Layout.default(engine.home)
    places = (layout.blobs, layout.layers, layout.chains, layout.references, layout.staging)
    return sorted(str(path) for place in places if place.exists() for path in place.iterdir())


def without_root_time(found: dict[bytes, Node]) -> dict[bytes, Node]:
    """Leave out the time of the root, which is each container's own."""
    return {path: node for path, node in found.items() if path != b"."}


def test_what_tar_reads_is_what_the_kernel_shows(box: Engine, tmp_path: Path):
    archive = tmp_path / "box.tar"
    box.export("box", archive)
    assert archive.stat().st_mode & 0o777 == 0o600
    ours, theirs = shown(box, "box", tmp_path / "merged"), extracted(archive, tmp_path / "tree")
    assert differences(without_root_time(theirs), without_root_time(ours)) == []
    assert b"work/.wh.name" in ours
    assert {b"shared", b"proc", b"etc/hosts"} < ours.keys()
    assert b"shared/of the container" not in ours
    with tarfile.open(archive) as opened:
        assert opened.getmember("etc/hosts").size == 0
        assert opened.getmember("work/twin").islnk()


def test_a_round_trip_keeps_every_byte(box: Engine, tmp_path: Path):
    code = CHANGES.replace("/work/.wh.name", "/work/wh").replace("/shared/", "/opt/")
    ended(box, box.container("box").inspect().image, code, name="second")
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    box.export("second", one)
    request = ImportRequest(comment="flat", changes=("CMD id -u",))
    image = box.import_image(one, "mine/flat", request)
    assert (len(image.layers), image.references[0].familiar) == (1, "mine/flat:latest")
    box.create(RunRequest(image="mine/flat", argv=("true",), name="again"))
    box.export("again", two)
    assert two.read_bytes() == one.read_bytes()
    ran = box.run("mine/flat", ["python3", "-c", "print(open('/work/twin').read())"]).check()
    assert ran.stdout == b"new\n\n"
    assert box.run("mine/flat").check().stdout == b"0\n"
    row = box.history("mine/flat")[0]
    assert (row.comment, row.diffid) == ("flat", image.layers[0])
    saved, layout = tmp_path / "saved.tar", tmp_path / "layout"
    box.save(["mine/flat"], saved)
    argv = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        f"oci-archive:{saved}",
        f"oci:{layout}:one",
    ]
    subprocess.run(argv, check=True, timeout=100)
    (below := tmp_path / "nothing").mkdir()  # an overlay wants two
    layers = (below, *box._store.layers.chain(image.layers))
    names = assert_same_tree(f"{layout}:one", layers, tmp_path)
    assert b"work/twin" in names


def test_the_verbs_are_piped(box: Engine, base_home: Path, tmp_path: Path):
    cellblock = f"{sys.executable} -m cellblock"
    command = f"{cellblock} export box | gzip -1 | {cellblock} import -c 'ENV A=b' - mine/piped"
    environment = {**os.environ, "CELLBLOCK_HOME": str(base_home)}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=False, text=True, env=environment
    )
    image = box.image("mine/piped")
    assert (done.stdout, done.stderr) == (f"{image.id}\n", "")
    assert image.config.env == ("A=b",)
    assert box._store.staging.sweep() == ()


@pytest.mark.parametrize("program", ["gzip", "zstd", "cat"])
def test_archives_that_are_compressed(engine: Engine, tmp_path: Path, program: str):
    packed = subprocess.run(
        [capabilities.need_program(program)],
        input=tars.archive(GOOD),
        capture_output=True,
        check=True,
    )
    (tmp_path / "in").write_bytes(packed.stdout)
    request = ImportRequest(epoch_s=1_600_000_000, platform="linux/arm64/v8")
    with open(tmp_path / "in", "rb") as stream:
        image = engine.import_image(stream, "mine/flat", request)
    assert image.layers == engine.import_image(tmp_path / "in", "mine/same", request).layers
    assert image.created is not None
    assert (image.created.timestamp(), str(image.platform)) == (1_600_000_000, "linux/arm64")
    (layer,) = engine._store.layers.chain(image.layers)
    assert (layer / "bin" / "true").read_text() == "#!/bin/sh\n"
    assert (layer / "bin" / "true").stat().st_mtime == 1_600_000_000


def test_a_running_container_goes_on(box: Engine, base_image: str, tmp_path: Path):
    code = "import itertools, os\nprint('ready', flush=True)\nfor n in itertools.count():\n"
    code += (
        " open(f'/opt/{n % 50}', 'w').write(str(n))\n if n > 50: os.unlink(f'/opt/{(n + 25) % 50}')"
    )
    container = box.start(RunRequest(image=base_image, argv=("python3", "-c", code), name="busy"))
    deadline = time.monotonic() + 30
    while not any(b"ready" in record.data for record in container.logs()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    box.export("busy", tmp_path / "busy.tar")
    assert container.inspect().status == "running"
    container.stop(0)
    with tarfile.open(tmp_path / "busy.tar") as opened:
        assert "usr/bin/python3" in opened.getnames()


def test_what_cannot_be_exported(box: Engine, cellblock: Cellblock, tmp_path: Path):
    box.create(RunRequest(argv=("true",), name="own"))
    with pytest.raises(Unsupported, match="this machine's own"):
        box.export("own", tmp_path / "own.tar")
    with pytest.raises(InvalidInput, match="directory"):
        box.export("box", tmp_path)
    for argv in (("export", "own"), ("export", "nobox", "-o", str(tmp_path / "x.tar"))):
        refused = cellblock(*argv)
        assert (refused.returncode, refused.stdout) == (125, "")
        assert refused.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["shared"]


@pytest.mark.attack(10)
def test_links_lead_nowhere(box: Engine, tmp_path: Path):
    (tmp_path / "secret").write_text("secret of the host")
    link = f"os.symlink({str(tmp_path)!r}, '%s')"
    code = f"import os; {link % '/dir'}; os.rmdir('/opt'); {link % '/opt'}"
    ended(box, box.container("box").inspect().image, code, name="second")
    box.export("second", tmp_path / "second.tar")
    assert b"secret of the host" not in (tmp_path / "second.tar").read_bytes()
    with tarfile.open(tmp_path / "second.tar") as opened:
        assert opened.getmember("opt").linkname == str(tmp_path)


GOOD = tars.file(b"bin/true", b"#!/bin/sh\n", mode=0o755)
REFUSED = {
    "empty": (b"", "has no files"),
    "nothing": (tars.archive(), "has no files"),
    "text": (b"no archive at all\n" * 100, "in a header"),
    "cut": (tars.archive(GOOD, tars.file(b"b", b"x" * 4000))[:3000], "in the middle"),
    "gzip": (gzip.compress(tars.archive(GOOD))[:60], "is truncated"),
    "bzip2": (b"BZh91AY&SY" + bytes(600), "check sum is wrong"),
    "link": (tars.archive(GOOD, tars.hard_link(b"b", b"etc/shadow")), "'b' links to a file it has"),
    "device": (tars.archive(tars.header(b"d", b"3", device=(0, 0))), "the device b'd'"),
    "sparse": (tars.archive(tars.header(b"s", b"S")), "sparse"),
    "marker": (tars.archive(tars.file(b".wh./x")), "inside of a whiteout"),
    "above": (tars.archive(tars.file(b"../../evil", b"x")), "leaves its directory"),
    "images": (
        tars.archive(tars.file(b"oci-layout", b"{}"), tars.file(b"index.json", b"{}")),
        "archive of images",
    ),
}  # fmt: skip


@pytest.mark.attack(30, 37, 43)
@pytest.mark.parametrize("kind", REFUSED)
def test_archives_that_are_refused_leave_nothing(engine: Engine, tmp_path: Path, kind: str):
    data, why = REFUSED[kind]
    (tmp_path / "in.tar").write_bytes(data)
    with pytest.raises(StoreError, match=why) as refused:
        engine.import_image(tmp_path / "in.tar", "mine/evil")
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, InvalidArchive)
    assert stored(engine) == []
    assert engine.images() == ()


@pytest.mark.attack(31)
def test_an_archive_stays_in_its_image(engine: Engine, tmp_path: Path):
    through = tars.archive(tars.symlink(b"a", b"/etc"), tars.file(b"a/cellblock-evil", b"x"))
    (tmp_path / "in.tar").write_bytes(through)
    image = engine.import_image(tmp_path / "in.tar")
    (reference,) = image.references
    assert (reference.tag, reference.digest) == (None, image.manifest)
    assert not Path("/etc/cellblock-evil").exists()
    (layer,) = engine._store.layers.chain(image.layers)
    files = [path.relative_to(layer) for path in layer.rglob("*") if path.is_file()]
    assert list(map(str, files)) == ["etc/cellblock-evil"]


@pytest.mark.attack(37)
def test_a_bomb_ends_early(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source, "Caps", lambda: Caps(floor_bytes=2**20, ratio=2))
    (tmp_path / "in.tar").write_bytes(gzip.compress(tars.archive(tars.file(b"a", bytes(2**23)))))
    with pytest.raises(InvalidArchive, match="unpack to more than"):
        engine.import_image(tmp_path / "in.tar", "mine/evil")
    assert stored(engine) == []


def test_words_that_cannot_be_meant(engine: Engine, tmp_path: Path):
    (tmp_path / "in.tar").write_bytes(tars.archive(GOOD))
    for wrong in (
        {"reference": "host"},
        {"request": ImportRequest(changes=("EXPOSE $X http",))},
        {"request": ImportRequest(platform="a/b/c/d")},
        {"source": tmp_path},
        {"source": tmp_path / "none"},
    ):
        with pytest.raises(InvalidInput):
            engine.import_image(**{"source": tmp_path / "in.tar"} | wrong)
    with pytest.raises(InvalidInput, match="is none of"):
        ImportRequest(changes=("RUN x",))
    assert stored(engine) == []


def test_the_same_files_are_the_same_image(engine: Engine, tmp_path: Path):
    """Whatever the order in which they were packed."""
    other = tars.file(b"etc/os-release", b"ID=x\n")
    request = ImportRequest(epoch_s=1_700_000_000)
    ids = []
    for members in ((GOOD, other), (other, GOOD)):
        (tmp_path / "in.tar").write_bytes(tars.archive(*members))
        ids.append(engine.import_image(tmp_path / "in.tar", "mine/flat", request).id)
    assert ids[0] == ids[1]
    raw = json.loads((Layout.default(engine.home).blobs / ids[0].hex).read_bytes())
    assert raw["config"] == {}
    assert raw["history"] == [{"created": "2023-11-14T22:13:20Z", "comment": "Imported from -"}]
