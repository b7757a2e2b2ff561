"""A tree that is packed and unpacked is the same tree, and the same archive when packed again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cellblock_engine.errors import Conflict, InvalidLayer, StoreFull
from cellblock_engine.layout import Layout
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store, marks
from cellblock_engine.store import pack as packing
from cellblock_engine.store.copying import Source
from cellblock_engine.store.pack import archive as archived
from cellblock_engine.store.pack import entries, pack, read
from cellblock_engine.store.trees import remove_tree
from cellblock_engine.store.unpacking import Caps, unpack_while_made
from support import capabilities
from support.layers import add_layer
from support.layouts import LayoutWriter
from support.treelist import Node, differences, tree

OPAQUE = "user.overlay.opaque"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def packed(root: Path, *, without: Collection[bytes] = ()) -> bytes:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return b"".join(archived(entries(fd, read, without=without)) if without else pack(fd))
    finally:
        os.close(fd)


def made(store: Store, root: Path) -> Path:
    """Make a layer of the tree, see that its diffID is true, and return its directory."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with store.referencing():
            diffid, size = add_layer(store, pack(fd))
    finally:
        os.close(fd)
    archive = packed(root)
    assert (diffid.hex, size) == (hashlib.sha256(archive).hexdigest(), len(archive))
    layer = store.layers.path(diffid)
    assert packed(layer) == archive
    assert_copied_alike(store, root, diffid, size)
    return layer


def assert_copied_alike(store: Store, root: Path, diffid: Digest, size: int) -> None:
    """Assert that copying the tree makes the layer that unpacking its archive has made."""
    home = Path(tempfile.mkdtemp(dir=root.parent))
    other = Store(Layout(home / "home", home / "run"))
    assert copied(other, root) == (diffid, size)
    one, same = store.layers.path(diffid), other.layers.path(diffid)
    assert differences(timed(one), timed(same)) == []
    assert store.layers.record(diffid) == other.layers.record(diffid)
    remove_tree(home)


def copied(store: Store, root: Path) -> tuple[Digest, int]:
    """Make a layer of the tree as a commit does; return its diffID and its archive's size."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with store.referencing(), store.layers.copying() as copy:
            copy.fill(entries(fd, whole))
            return store.layers.keep(copy)
    finally:
        os.close(fd)


def timed(layer: Path) -> dict[bytes, Node]:
    """Return what is in a layer; a whiteout has the time when it was made."""
    found = tree(layer).items()
    return {p: replace(n, mtime_ns=0) if stat.S_ISCHR(n.kind) else n for p, n in found}


def whole(path: bytes, fd: int, status: os.stat_result) -> Iterator[Source]:
    yield Source(path, fd, 0, status.st_size, moving=False)


def names_in(archive: bytes) -> list[str]:
    """Return the names that an independent reader finds."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return opened.getnames()


def same(layer: Path, source: Path) -> bool:
    """Tell whether a layer is the tree it was made of; its root has no time."""
    os.utime(source, ns=(0, 0))
    assert differences(tree(layer), tree(source)) == []
    return True


def test_files_of_all_kinds(shared_store: Store, source: Path, root: None):
    (source / "empty").mkdir(mode=0o700)
    (source / "deep/er").mkdir(parents=True)
    for size in (0, 1, 511, 512, 513, 2**20, 2**20 + 1, 3_000_000):
        (source / f"deep/{size}").write_bytes(random.Random(size).randbytes(size))
    (source / "deep/er/set").write_text("x")
    os.chown(source / "deep/er/set", 4_000_000_000, 3_000_000)
    (source / "deep/er/set").chmod(0o6751)
    (source / "deep/er").chmod(0o1777)
    os.mkfifo(source / "pipe", 0o640)
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(source / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 100_000))
    (source / "link").symlink_to("/etc/passwd")
    (source / "nowhere").symlink_to("t" * 300)
    os.chown(source / "link", 7, 8, follow_symlinks=False)
    times = {"deep/0": 1, "deep/1": -1, "link": 10**18 + 1, "empty": 0, "pipe": -(10**9) - 500}
    for name, ns in times.items():
        os.utime(source / name, ns=(0, ns), follow_symlinks=False)
    source.chmod(0o710)
    assert same(made(shared_store, source), source)


def test_odd_names(shared_store: Store, source: Path):
    names = [b"\xff\xfe", b"new\nline", b" ", b"-rf", b"..x", b"n" * 255, "é".encode(), b"a\\b"]
    for name in names:
        os.mkdir(os.path.join(os.fsencode(source), name))
        with open(os.path.join(os.fsencode(source), name, name[::-1]), "wb") as file:
            file.write(name)
    deep = source
    for _ in range(12):
        deep = deep / ("d" * 250)
        deep.mkdir()
    (deep / "file").write_text("deep")
    assert same(made(shared_store, source), source)


def test_hard_links(shared_store: Store, source: Path):
    (source / "z").mkdir()
    (source / "a").mkdir()
    (source / "z/first").write_text("shared")
    os.link(source / "z/first", source / "a/second")
    os.link(source / "z/first", source / ("third" * 30))
    (source / "link").symlink_to("target")
    os.link(source / "link", source / "a/link", follow_symlinks=False)
    os.mkfifo(source / "pipe")
    os.link(source / "pipe", source / "a/pipe")
    assert same(made(shared_store, source), source)


def test_a_file_whose_other_name_is_elsewhere(shared_store: Store, source: Path, tmp_path: Path):
    (source / "inside").write_text("x")
    os.link(source / "inside", tmp_path / "outside")
    layer = made(shared_store, source)
    assert (layer / "inside").read_text() == "x"
    assert (layer / "inside").stat().st_nlink == 1


def test_whiteouts_and_opaque_directories(shared_store: Store, source: Path, root: None):
    for directory in ("merged", "opaque", "opaque/below"):
        (source / directory).mkdir()
    for gone in ("gone", "merged/gone", "merged/" + "g" * 255, "merged/\udcff"):
        os.mknod(source / gone, stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(source / "opaque", OPAQUE, b"y")
    (source / "opaque/file").write_text("x")
    layer = made(shared_store, source)
    assert os.getxattr(layer / "opaque", OPAQUE) == b"y"
    assert {path.name for path in (layer / "merged").iterdir()} == {"gone", "g" * 255, "\udcff"}
    for whiteout in (layer / "gone", layer / "merged/gone"):
        status = whiteout.lstat()
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)
    names = names_in(packed(source))
    assert {".wh.gone", "merged/.wh.gone", "opaque/.wh..wh..opq", "opaque/file"} <= set(names)


def test_whiteouts_that_hide_nothing_are_left_out(source: Path, root: None):
    (source / "opaque").mkdir()
    os.setxattr(source / "opaque", OPAQUE, b"y")
    os.mknod(source / "opaque/gone", stat.S_IFCHR, os.makedev(0, 0))
    names = names_in(packed(source))
    assert names == [".", "opaque", "opaque/.wh..wh..opq"]


def test_extended_attributes(shared_store: Store, source: Path, root: None):
    (source / "file").write_text("x")
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr(source / "file", "security.capability", capability)
    os.setxattr(source / "file", "user.binary", bytes(range(256)))
    os.setxattr(source / "file", "user.empty", b"")
    os.setxattr(source / "file", "user.é\n", b"x")
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in ((1, 6, 2**32 - 1), (2, 4, 12345), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1))
    )
    acl += struct.pack("<HHI", 32, 0, 2**32 - 1)
    os.setxattr(source / "file", "system.posix_acl_access", acl)
    (source / "directory").mkdir()
    os.setxattr(source / "directory", "system.posix_acl_default", acl)
    os.setxattr(source, "user.of-root", b"1")
    layer = made(shared_store, source)
    assert set(os.listxattr(layer / "file")) >= {"security.capability", "user.binary"}
    assert same(layer, source)


def test_overlayfss_own_attributes_stay_out(shared_store: Store, source: Path, root: None):
    (source / "directory").mkdir()
    (source / "file").write_text("x")
    for name in ("origin", "impure", "redirect", "overlay.opaque", "metacopy", "uuid"):
        for path in ("directory", "file", "."):
            os.setxattr(source / path, f"user.overlay.{name}", b"y")
    os.setxattr(source / "file", "trusted.overlay.origin", b"y")
    assert b"overlay" not in packed(source)
    assert os.listxattr(made(shared_store, source) / "file") == []


def test_holes_count_as_data(source: Path):
    (source / "below").mkdir()
    for name, size in (("holes", 10**12), ("below/one", 3), ("below/two", 4)):
        with (source / name).open("wb") as file:
            file.truncate(size)
    os.link(source / "below/two", source / "twin")
    (source / "link").symlink_to("holes")
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    assert marks.data_bytes(marks.take(fd)) == 10**12 + 7
    os.close(fd)


def test_sockets_are_left_out(source: Path):
    with socket.socket(socket.AF_UNIX) as sock, contextlib.chdir(source):
        sock.bind("socket")
        os.link("socket", "twin")
        (source / "after").write_text("x")
    assert names_in(packed(source)) == [".", "after"]


def test_what_was_made_for_mounts_is_left_out_where_nothing_is_in_it(source: Path):
    for name in ("empty", "full"):
        (source / name).mkdir()
        (source / f"{name}.file").write_text("x" * (name == "full"))
    (source / "full/inside").write_text("x")
    left_out = [b"empty", b"empty.file", b"full", b"full.file", b"missing"]
    names = names_in(packed(source, without=left_out))
    assert names == [".", "full.file", "full", "full/inside"]


def test_the_order_of_names_on_disk_does_not_show(tmp_path: Path):
    archives = []
    for seed in (1, 2):
        root = tmp_path / str(seed)
        (root / "below").mkdir(parents=True)
        names = [f"{directory}{n}" for n in range(300) for directory in ("", "below/")]
        random.Random(seed).shuffle(names)
        for name in names:
            (root / name).write_text(name)
        os.link(root / names[0], root / "twin") if seed == 1 else None
        (root / "twin").unlink(missing_ok=True)
        for path in [root / "below", *(root / name for name in names)]:
            os.utime(path, ns=(0, 10**18 + 5))
        archives.append(packed(root))
    assert archives[0] == archives[1]


@pytest.mark.attack(40)
@pytest.mark.parametrize("name", [".wh.passwd", ".wh..wh..opq", ".wh.", "etc/.wh.passwd"])
def test_a_name_that_would_mean_a_removal_is_refused(
    store: Store, layout: Layout, source: Path, name: str
):
    (source / "etc").mkdir()
    (source / name).write_text("x")
    with pytest.raises(InvalidLayer, match=r"\.wh\.") as raised:
        copied(store, source)
    assert "\n" not in str(raised.value)
    assert list(layout.staging.iterdir()) == []
    assert not layout.layers.exists()


@pytest.mark.attack(40)
def test_links_lead_nowhere(source: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("secret of the host")
    (source / "file").symlink_to(tmp_path / "secret")
    (source / "directory").symlink_to(tmp_path)
    archive = packed(source)
    assert b"secret of the host" not in archive
    assert len(names_in(archive)) == 3


@pytest.mark.attack(40)
def test_a_directory_that_became_a_link_is_not_followed(source: Path, tmp_path: Path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret of the host")
    (source / "a").mkdir()
    (source / "z").write_text("seen after the directory, packed before it")
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    pieces = pack(fd)
    assert [len(next(pieces)) for _ in ("root", "z")] == [512, 512 + 1024]
    os.rename(source / "a", source / "old")
    (source / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        list(pieces)
    os.close(fd)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_file_that_shrinks_meanwhile_is_an_error(
    source: Path, size: int, monkeypatch: pytest.MonkeyPatch
):
    (source / "file").write_bytes(b"x" * 4_000_000)
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        status = real(fd)
        if stat.S_ISREG(status.st_mode):
            os.truncate(source / "file", size)
        return status

    monkeypatch.setattr(packing.os, "fstat", fstat)
    with pytest.raises(Conflict, match="changed while it was read"):
        packed(source)


def test_a_layer_that_is_there_is_not_made_again(store: Store, layout: Layout, source: Path):
    (source / "file").write_text("x")
    first = made(store, source).stat().st_ino
    assert made(store, source).stat().st_ino == first
    assert len(list(layout.layers.iterdir())) == 1
    assert list(layout.staging.iterdir()) == []


def test_an_archive_that_fails_in_its_middle_leaves_nothing(
    store: Store, layout: Layout, source: Path
):
    (source / "file").write_bytes(bytes(2_000_000))

    def failing() -> Iterator[bytes]:
        yield packed(source)[:1_500_000]
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), store.staging.directory() as staging:
        unpack_while_made(failing(), staging, Caps())
    assert list(layout.staging.iterdir()) == []
    assert not layout.layers.exists()


@pytest.mark.parametrize("text", [b"not an archive" * 100_000, b"x" * 600])
def test_an_unpacker_that_refuses_has_the_last_word(store: Store, layout: Layout, text: bytes):
    with pytest.raises(InvalidLayer, match="the number"), store.staging.directory() as staging:
        unpack_while_made([text] * 50, staging, Caps())
    assert list(layout.staging.iterdir()) == []


def test_no_room(layout: Layout, source: Path, root: None):
    layout.home.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", layout.home], check=True)
    try:
        (source / "file").write_bytes(b"x" * 9_000_000)
        store = Store(layout)
        with pytest.raises(StoreFull, match="no space"):
            copied(store, source)
        assert list(layout.staging.iterdir()) == []
        assert not layout.layers.exists()
    finally:
        subprocess.run(["umount", layout.home], check=True)


def test_umoci_unpacks_the_same_tree(store: Store, source: Path, tmp_path: Path, root: None):
    capabilities.need_program("umoci")
    (source / "directory").mkdir()
    (source / "directory/file").write_bytes(b"x" * 70_000)
    (source / "directory/file").chmod(0o4711)
    os.link(source / "directory/file", source / ("twin" * 40))
    (source / "link").symlink_to("t" * 120)
    os.setxattr(source / "directory/file", "user.note", b"\0\n=")
    os.utime(source / "directory/file", ns=(0, 10**18 + 123_456_789))
    archive = tmp_path / "layer.tar"
    archive.write_bytes(packed(source))
    writer = LayoutWriter(tmp_path / "image")
    writer.image([writer.layer(archive)])
    theirs = tmp_path / "umoci"
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{writer.directory}:latest", theirs],
        check=True,
        timeout=100,
    )
    os.utime(source, ns=(0, 0))
    os.utime(theirs, ns=(0, 0))
    assert differences(tree(theirs), tree(source)) == []
    assert Digest.of(archive.read_bytes()).hex == made(store, source).parent.name


@pytest.mark.usefixtures("root")
def test_files_that_their_owner_may_not_read_are_packed(source: Path):
    """Root may read them, so another user packs."""
    for name, mode in (("shadow", 0), ("sudo", 0o4111), ("plain", 0o644)):
        (source / name).write_text(name)
        os.chown(source / name, 12345, 12345)
        (source / name).chmod(mode)
    os.chown(source, 12345, 12345)
    code = "import sys; from cellblock_engine.store.pack import pack\n"
    code += "for piece in pack(int(sys.argv[1])): sys.stdout.buffer.write(piece)"
    root = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(root)],
            pass_fds=[root],
            capture_output=True,
            check=False,
            user=12345,
            group=12345,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        os.close(root)
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as opened:
        found = {each.name: (each.mode, each.size) for each in opened if each.isfile()}
    assert found == {"shadow": (0, 6), "sudo": (0o4111, 4), "plain": (0o644, 5)}
    assert (source / "sudo").stat().st_mode & 0o7777 == 0o4111
