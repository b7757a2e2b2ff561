import gzip
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cellblock_engine.errors import InvalidLayer, StoreError, StoreFull
from cellblock_engine.layout import Layout
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store
from cellblock_engine.store.compression import Compression, compress
from cellblock_engine.store.pack import pack
from cellblock_engine.store.unpacking import Caps
from support import tars
from support.layers import add_layer
from support.treelist import tree

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OCI = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
Extract = Callable[[Store, bytes], Digest]

ARCHIVE = tars.archive(
    tars.directory(b"./"), tars.file(b"f", b"x" * 3000), tars.file(b"d/g", b"y" * 2_000_000)
)
DIFFID = Digest.of(ARCHIVE)
SKIPPABLE = bytes((0x50, 0x2A, 0x4D, 0x18)) + (4).to_bytes(4, "little") + b"note"


def big_archive(files: int) -> bytes:
    noise = random.Random(1)
    return tars.archive(
        *(tars.file(b"d%d/f%d" % (n % 50, n), noise.randbytes(4000)) for n in range(files))
    )


def blob(directory: Path, data: bytes) -> Path:
    path = directory / "blob"
    path.write_bytes(data)
    return path


def children() -> set[int]:
    return {int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def staged(layout: Layout) -> list[str]:
    return os.listdir(layout.staging) if layout.staging.exists() else []


FORMS = {
    "plain": (ARCHIVE, OCI),
    "gzip": (gzip.compress(ARCHIVE), f"{OCI}+gzip"),
    "docker": (gzip.compress(ARCHIVE), f"{DOCKER}.gzip"),
    "gzip members": (
        gzip.compress(ARCHIVE[:777]) + gzip.compress(b"") + gzip.compress(ARCHIVE[777:]),
        f"{OCI}+gzip",
    ),
    "zstd": (zstd.compress(ARCHIVE), f"{OCI}+zstd"),
    "zstd frames": (
        zstd.compress(ARCHIVE[:999]) + SKIPPABLE + zstd.compress(ARCHIVE[999:]) + SKIPPABLE,
        f"{OCI}+zstd",
    ),
    "called gzip": (zstd.compress(ARCHIVE), f"{DOCKER}.gzip"),  # Docker looks at the content
}


@pytest.mark.parametrize(("data", "media_type"), FORMS.values(), ids=FORMS.keys())
def test_every_compression_gives_the_same_layer(
    store: Store, layout: Layout, tmp_path: Path, data: bytes, media_type: str
):
    assert not store.layers.has(DIFFID)
    read: list[int] = []
    store.layers.extract(blob(tmp_path, data), media_type, DIFFID, read.append)
    assert store.layers.has(DIFFID)
    assert (store.layers.path(DIFFID) / "d" / "g").read_bytes() == b"y" * 2_000_000
    assert store.layers.size_bytes(DIFFID) == 2_003_000
    assert store.layers.record(DIFFID).implied == ("d",)
    assert read == sorted(read)
    assert staged(layout) == []


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_is_compressed_here_unpacks_to_the_same_layer(
    store: Store, tmp_path: Path, compression: Compression
):
    data = b"".join(compress([ARCHIVE[:999], ARCHIVE[999:]], compression))
    assert data == b"".join(compress([ARCHIVE[:999], ARCHIVE[999:]], compression))
    assert len(data) < len(ARCHIVE) // 10
    store.layers.extract(blob(tmp_path, data), f"{OCI}+{compression}", DIFFID)
    assert store.layers.has(DIFFID)


def test_a_layer_that_was_packed_here_gives_its_archive_again(store: Store, tmp_path: Path):
    store.layers.extract(blob(tmp_path, ARCHIVE), OCI, DIFFID)
    fd = os.open(store.layers.path(DIFFID), os.O_RDONLY)
    try:
        diffid, _ = add_layer(store, pack(fd))
    finally:
        os.close(fd)
    assert Digest.of(b"".join(store.layers.archive(diffid))) == diffid
    with pytest.raises(InvalidLayer, match="cannot be packed as it was"):
        list(store.layers.archive(DIFFID))
    (store.layers.path(diffid) / "d" / "g").write_bytes(b"forged")
    with pytest.raises(InvalidLayer, match="cannot be packed as it was"):
        list(store.layers.archive(diffid))


DAMAGED = {
    "truncated gzip": gzip.compress(ARCHIVE)[:-9],
    "gzip without its sum": gzip.compress(ARCHIVE)[:-4],
    "gzip with a wrong sum": gzip.compress(ARCHIVE)[:-8] + bytes(8),
    "garbage after gzip": gzip.compress(ARCHIVE) + b"garbage",
    "zeros after gzip": gzip.compress(ARCHIVE) + bytes(512),
    "zstd after gzip": gzip.compress(ARCHIVE) + zstd.compress(b""),
    "gzip of garbage": gzip.compress(b"garbage" * 100),
    "gzip magic alone": b"\x1f\x8b",
    "truncated zstd": zstd.compress(ARCHIVE)[:-5],
    "garbage after zstd": zstd.compress(ARCHIVE) + b"garbage",
    "half an archive": gzip.compress(ARCHIVE[:1500]),
    "garbage": b"garbage" * 200,
    "empty": b"",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.attack(43)
def test_damaged_blobs_are_refused_and_leave_nothing(
    store: Store, layout: Layout, tmp_path: Path, data: bytes
):
    with pytest.raises(InvalidLayer) as caught:
        store.layers.extract(blob(tmp_path, data), f"{OCI}+gzip", DIFFID)
    assert "\n" not in str(caught.value)
    assert not store.layers.has(DIFFID)
    assert staged(layout) == []


@pytest.mark.attack(43)
def test_another_diffid_is_refused(store: Store, layout: Layout, tmp_path: Path):
    other = Digest.of(b"other")
    with pytest.raises(InvalidLayer, match=DIFFID.short):
        store.layers.extract(blob(tmp_path, ARCHIVE), OCI, other)
    assert not store.layers.has(other)
    assert staged(layout) == []


def test_unknown_media_types_are_refused(store: Store, tmp_path: Path):
    with pytest.raises(InvalidLayer, match="encrypted"):
        store.layers.extract(blob(tmp_path, ARCHIVE), f"{OCI}+encrypted", DIFFID)


@pytest.mark.attack(47)
def test_blobs_that_are_links_are_not_followed(store: Store, tmp_path: Path):
    blob(tmp_path, ARCHIVE)
    (tmp_path / "link").symlink_to("blob")
    with pytest.raises(StoreError):
        store.layers.extract(tmp_path / "link", OCI, DIFFID)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
@pytest.mark.attack(37)
def test_bombs_end_at_the_cap(layout: Layout, tmp_path: Path, compress: Callable[[bytes], bytes]):
    store = Store(layout, caps=Caps(floor_bytes=2**20, ratio=10))
    bomb = tars.archive(tars.header(b"f", size=2**27) + bytes(2**27))
    with pytest.raises(InvalidLayer, match="unpacks to more than"):
        store.layers.extract(blob(tmp_path, compress(bomb)), OCI, Digest.of(bomb))
    assert staged(layout) == []


@pytest.mark.attack(37)
def test_a_zstd_window_bomb_is_refused(store: Store, tmp_path: Path):
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes(((31 - 10) << 3,)) + b"\x01\x00\x00"
    with pytest.raises(InvalidLayer, match="zstd stream"):
        store.layers.extract(blob(tmp_path, frame), f"{OCI}+zstd", DIFFID)


@pytest.mark.attack(38)
def test_entries_are_capped(layout: Layout, tmp_path: Path):
    store = Store(layout, caps=Caps(max_entries=10))
    with pytest.raises(InvalidLayer, match="more than 10 headers"):
        store.layers.extract(blob(tmp_path, tars.archive(*[tars.file(b"f")] * 20)), OCI, DIFFID)


@pytest.mark.attack(72)
def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=False)
    if mounted.returncode:
        pytest.skip("needs CAP_SYS_ADMIN to mount a tmpfs")
    try:
        layout = Layout(small / "store", tmp_path / "run")
        store = Store(layout)
        with pytest.raises(StoreFull, match="no space"):
            store.layers.extract(blob(tmp_path, ARCHIVE), OCI, DIFFID)
        assert staged(layout) == []
        with (
            pytest.raises(StoreFull, match="no space"),
            store.blobs.writer(DIFFID, len(ARCHIVE)) as writer,
        ):
            writer.write(ARCHIVE)
        assert staged(layout) == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.attack(65)
def test_what_is_kept_is_for_its_owner_alone(store: Store, layout: Layout, extract: Extract):
    extract(store, ARCHIVE)
    for path in (layout.home, layout.layers, layout.staging, layout.layers / DIFFID.hex):
        assert path.stat().st_mode & 0o777 == 0o700


def test_no_process_stays_behind(store: Store, extract: Extract):
    before = children()
    extract(store, ARCHIVE)
    assert children() == before


def test_a_warm_unpacker_serves_many_layers_and_survives_none_that_fails(
    store: Store, extract: Extract
):
    before = children()
    with store.layers.warm():
        (first,) = children() - before
        for n in range(3):
            extract(store, tars.archive(tars.file(b"f%d" % n)))
        assert children() - before == {first}
        with pytest.raises(InvalidLayer):
            extract(store, b"garbage" * 100)
        assert children() == before
        extract(store, tars.archive(tars.file(b"after")))
    assert children() == before


def test_threads_and_processes_may_extract_the_same_layer(
    store: Store, layout: Layout, tmp_path: Path
):
    archive = big_archive(500)
    path, diffid = blob(tmp_path, archive), Digest.of(archive)
    code = (
        "import sys; from pathlib import Path\n"
        "from cellblock_engine.layout import Layout\n"
        "from cellblock_engine.oci.digest import Digest\n"
        "from cellblock_engine.store import Store\n"
        "store = Store(Layout(Path(sys.argv[1]), Path(sys.argv[2])))\n"
        "store.layers.extract(Path(sys.argv[3]), sys.argv[4], Digest.parse(sys.argv[5]))\n"
    )
    argv = [sys.executable, "-c", code, layout.home, layout.run, path, OCI, str(diffid)]
    processes = [subprocess.Popen(argv) for _ in range(2)]
    threads = [
        threading.Thread(target=store.layers.extract, args=(path, OCI, diffid)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(tree(store.layers.path(diffid))) == 1 + 50 + 500
    assert staged(layout) == []


class TestDeath:
    """Whoever is killed, the next attempt finds nothing in its way."""

    ARCHIVE = big_archive(3000)
    DIFFID = Digest.of(ARCHIVE)

    def test_of_the_unpacker(self, store: Store, layout: Layout, tmp_path: Path):
        path = blob(tmp_path, self.ARCHIVE)
        before = children()

        def kill(_: int) -> None:
            (victim,) = children() - before
            os.kill(victim, signal.SIGKILL)

        with pytest.raises(StoreError, match="killed by signal 9"):
            store.layers.extract(path, OCI, self.DIFFID, kill)
        assert not store.layers.has(self.DIFFID)
        assert staged(layout) == []
        store.layers.extract(path, OCI, self.DIFFID)
        assert len(tree(store.layers.path(self.DIFFID))) == 3051

    def test_of_its_parent(self, store: Store, layout: Layout, tmp_path: Path):
        path = blob(tmp_path, self.ARCHIVE)
        code = (
            "import os, sys; from pathlib import Path\n"
            "from cellblock_engine.layout import Layout\n"
            "from cellblock_engine.oci.digest import Digest\n"
            "from cellblock_engine.store import Store\n"
            "store = Store(Layout(Path(sys.argv[1]), Path(sys.argv[2])))\n"
            "def read(count):\n"
            "    unpacker = open(f'/proc/self/task/{os.getpid()}/children').read()\n"
            "    sibling = os.fork()\n"
            "    if sibling == 0: __import__('time').sleep(20)\n"
            "    print(unpacker, sibling, flush=True)\n"
            "    os.kill(os.getpid(), 9)\n"
            "digest = Digest.parse(sys.argv[5])\n"
            "store.layers.extract(Path(sys.argv[3]), sys.argv[4], digest, read)\n"
        )
        argv = [sys.executable, "-c", code, layout.home, layout.run, path, OCI, str(self.DIFFID)]
        parent = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert parent.stdout is not None
        child, sibling = map(int, parent.stdout.readline().split())
        parent.stdout.close()
        assert parent.wait(10) == -signal.SIGKILL
        _await_end(child)  # although the sibling still holds its pipes
        os.kill(sibling, signal.SIGKILL)
        _await_end(sibling)
        assert len(staged(layout)) == 1
        assert not store.layers.has(self.DIFFID)
        store.sweep()
        assert staged(layout) == []
        store.layers.extract(path, OCI, self.DIFFID)

    def test_an_interrupt_stops_the_unpacker(self, store: Store, layout: Layout, tmp_path: Path):
        before = children()

        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.layers.extract(blob(tmp_path, self.ARCHIVE), OCI, self.DIFFID, interrupt)
        assert children() == before
        assert staged(layout) == []


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_missing_layers_are_named(store: Store):
    for ask in (store.layers.path, store.layers.size_bytes):
        with pytest.raises(StoreError, match=DIFFID.short):
            ask(DIFFID)
    with pytest.raises(StoreError, match=DIFFID.short):
        store.layers.chain([DIFFID])
