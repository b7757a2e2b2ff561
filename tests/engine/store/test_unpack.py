import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellblock_engine.errors import InvalidLayer
from cellblock_engine.store import directories
from cellblock_engine.store.tar import Stream
from cellblock_engine.store.unpack import unpack as unpack_into
from support import tars
from support.treelist import tree

EXAMPLES = int(os.environ.get("CELLBLOCK_EXAMPLES", "250"))  # make fuzz has more

Unpack = Callable[[bytes], Path]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_CHOWN and CAP_MKNOD")


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "user.overlay.opaque" in os.listxattr(path)


@needs_root
def test_everything_is_as_recorded(unpack: Unpack):
    root = unpack(
        tars.archive(
            tars.directory(b"./", 0o751, uid=3, gid=4, mtime=11),
            tars.directory(b"d/", 0o1777, uid=1, gid=2, mtime=12),
            tars.pax({b"mtime": b"13.000000007", b"SCHILY.xattr.user.note": b"a\0\nb"}),
            tars.file(b"d/set-id", b"content", mode=0o6755, uid=70_000, gid=8),
            tars.hard_link(b"d/twin", b"./d/set-id"),
            tars.symlink(b"d/away", b"/etc/passwd"),
            tars.header(b"d/fifo", b"6", mode=0o600, uid=9, gid=9, mtime=14),
            tars.header(b"d/null", b"3", mode=0o666, device=(1, 3)),
            tars.header(b"d/disk", b"4", mode=0o660, gid=6, device=(259, 70_000)),
        )
    )
    found = tree(root)
    assert {(name, node.mode, node.uid, node.gid) for name, node in found.items()} == {
        (b".", 0o751, 3, 4),
        (b"d", 0o1777, 1, 2),
        (b"d/set-id", 0o6755, 70_000, 8),
        (b"d/twin", 0o6755, 70_000, 8),
        (b"d/away", 0o777, 0, 0),
        (b"d/fifo", 0o600, 9, 9),
        (b"d/null", 0o666, 0, 0),
        (b"d/disk", 0o660, 0, 6),
    }
    assert found[b"."].mtime_ns == 11 * 10**9
    assert found[b"d"].mtime_ns == 12 * 10**9
    assert found[b"d/set-id"].mtime_ns == 13 * 10**9 + 7
    assert found[b"d/set-id"].xattrs == (("user.note", b"a\0\nb"),)
    assert found[b"d/set-id"].links == (b"d/set-id", b"d/twin")
    assert found[b"d/away"].target == "/etc/passwd"
    assert found[b"d/fifo"].kind == stat.S_IFIFO
    assert found[b"d/null"].device == os.makedev(1, 3)
    assert found[b"d/disk"].device == os.makedev(259, 70_000)


@needs_root
@pytest.mark.attack(35)
def test_extended_attributes_of_overlayfs_and_of_the_host_are_dropped(unpack: Unpack):
    capability = b"\x01\0\0\x02\0\x04\0\0" + bytes(12)
    values = {
        b"user.kept": b"1",
        b"security.capability": capability,
        b"user.overlay.opaque": b"y",
        b"user.overlay.redirect": b"/etc",
        b"user.overlay.metacopy": b"",
        b"trusted.overlay.opaque": b"y",
        b"trusted.other": b"x",
        b"security.selinux": b"label",
        b"security.ima": b"x",
    }
    header = tars.pax({b"SCHILY.xattr." + key: value for key, value in values.items()})
    root = unpack(tars.archive(header, tars.file(b"f"), header, tars.directory(b"d")))
    kept = {"user.kept": b"1", "security.capability": capability}
    for name in ("f", "d"):
        assert {k: os.getxattr(root / name, k) for k in os.listxattr(root / name)} == kept


def test_extended_attributes_too_large_for_the_file_system_are_refused(unpack: Unpack):
    header = tars.pax({b"SCHILY.xattr.user.big": b"x" * 2**17})
    with pytest.raises(InvalidLayer, match="too large"):
        unpack(tars.archive(header, tars.file(b"f")))


def test_whiteouts_become_overlay_whiteouts(unpack: Unpack):
    root = unpack(
        tars.archive(
            tars.directory(b"etc"),
            tars.file(b"etc/.wh.gone"),
            tars.file(b".wh.top"),
            tars.file(b"opaque/.wh.before"),
            tars.file(b"opaque/.wh..wh..opq"),
            tars.file(b"opaque/.wh.after"),
            tars.file(b".wh..wh.plnk/1.2"),
            tars.file(b".wh..wh.aufs", b"ignored"),
        )
    )
    assert is_whiteout(root / "etc" / "gone")
    assert is_whiteout(root / "top")
    assert sorted(os.listdir(root)) == ["etc", "opaque", "top"]
    assert is_opaque(root / "opaque")
    assert not is_opaque(root / "etc")
    # Beside an opaque marker whiteouts say nothing, and overlayfs would list them.
    assert os.listdir(root / "opaque") == []


def test_markers_below_a_file_say_nothing(unpack: Unpack):
    """What umoci writes where a directory became a file."""
    root = unpack(
        tars.archive(
            tars.file(b"was-directory", b"now a file"),
            tars.file(b"was-directory/.wh.inner"),
            tars.file(b"was-directory/sub/.wh.inner"),
            tars.file(b"was-directory/.wh..wh..opq"),
            tars.file(b".wh.gone"),
            tars.file(b"gone/.wh.inner"),
        )
    )
    assert (root / "was-directory").read_bytes() == b"now a file"
    assert is_whiteout(root / "gone")


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_whiteout_beside_its_name_hides_only_what_is_below(unpack: Unpack, whiteout_first: bool):
    made = [tars.directory(b"d"), tars.file(b"d/new", b"n"), tars.file(b"f", b"new")]
    hidden = [tars.file(b".wh.d"), tars.file(b".wh.f")]
    root = unpack(tars.archive(*(hidden + made if whiteout_first else made + hidden)))
    assert is_opaque(root / "d")
    assert (root / "d" / "new").read_bytes() == b"n"
    assert (root / "f").read_bytes() == b"new"


@pytest.mark.attack(39)
def test_duplicates_and_flips_end_as_the_last_entry_says(unpack: Unpack):
    root = unpack(
        tars.archive(
            tars.file(b"a", b"one"),
            tars.file(b"a", b"two"),
            tars.file(b"b", b"file"),
            tars.directory(b"b", 0o700),
            tars.file(b"b/inside"),
            tars.directory(b"c"),
            tars.file(b"c/x/y/z"),
            tars.file(b"c", b"file"),
            tars.file(b"d", b"file"),
            tars.file(b"d/e", b"below a file"),
            tars.symlink(b"f", b"a"),
            tars.file(b"f", b"not through the link"),
            tars.directory(b"g", 0o711),
            tars.directory(b"g", 0o755),
        )
    )
    assert (root / "a").read_bytes() == b"two"
    assert os.listdir(root / "b") == ["inside"]
    assert (root / "c").read_bytes() == b"file"
    assert (root / "d" / "e").read_bytes() == b"below a file"
    assert (root / "f").read_bytes() == b"not through the link"
    assert not (root / "f").is_symlink()
    assert (root / "g").stat().st_mode & 0o777 == 0o755
    # A directory that took a file's place hides a lower directory of its name.
    assert is_opaque(root / "b")
    assert is_opaque(root / "d")
    assert not is_opaque(root / "g")


@pytest.mark.attack(30, 36, 40)
def test_names_are_taken_from_the_root_of_the_layer(unpack: Unpack):
    root = unpack(
        tars.archive(
            tars.file(b"/abs//olute", b"1"),
            tars.file(b"./././dots/./in", b"2"),
            tars.file(b"x" * 255, b"3"),
            tars.file(b"new\nline", b"4"),
            tars.file(b"\xff\xfe\x80", b"5"),
            tars.file(b"a,b:c\\d", b"6"),
        )
    )
    assert (root / "abs" / "olute").read_bytes() == b"1"
    assert (root / "dots" / "in").read_bytes() == b"2"
    assert set(os.listdir(os.fsencode(root))) == {
        b"abs",
        b"dots",
        b"x" * 100,  # what a plain header can hold of it
        b"new\nline",
        b"\xff\xfe\x80",
        b"a,b:c\\d",
    }


@pytest.mark.parametrize(
    "entry",
    [
        tars.file(b"../x"),
        tars.file(b"a/../../x"),
        tars.file(b"a/.."),
        tars.directory(b".."),
        tars.file(b"."),
        tars.file(b"/"),
        tars.symlink(b".", b"/etc"),
        tars.hard_link(b"x", b"../../../../etc/passwd"),
        tars.hard_link(b"x", b""),
        tars.hard_link(b"x", b"/"),
        tars.hard_link(b"x", b"."),
        tars.symlink(b"x", b""),
        tars.pax({b"linkpath": b"a\0b"}) + tars.symlink(b"x", b"y"),
        tars.pax({b"linkpath": b"t" * 5000}) + tars.symlink(b"x", b"y"),
        tars.pax({b"path": b"a\0b"}) + tars.file(b"x"),
        tars.pax({b"path": b"n" * 300}) + tars.file(b"x"),
        tars.pax({b"path": b"a/" * 10_000 + b"x"}) + tars.file(b"x"),
        tars.file(b".wh."),
        tars.file(b".wh.."),
        tars.file(b".wh..."),
        tars.file(b"a/.wh./etc"),
        tars.file(b".wh.a/b"),
        tars.header(b"zero", b"3", device=(0, 0)),
        tars.header(b"huge", b"4", device=(2**20, 1)),
        tars.directory(b"d") + tars.hard_link(b"x", b"d"),
        tars.file(b".wh.gone") + tars.hard_link(b"x", b"gone"),
        tars.symlink(b"loop", b"loop") + tars.file(b"loop/x"),
        tars.symlink(b"p", b"q") + tars.symlink(b"q", b"p") + tars.file(b"p/x"),
        tars.directory(b"d") + tars.file(b"d/f") + tars.hard_link(b"d", b"d/f"),
    ],
)
@pytest.mark.attack(30, 31, 32, 33, 34, 40)
def test_hostile_entries_are_refused(unpack: Unpack, shared_store, entry: bytes):
    with pytest.raises(InvalidLayer) as caught:
        unpack(tars.archive(entry))
    assert "\n" not in str(caught.value)


class TestSymbolicLinks:
    """What a layer writes through its own links stays in the layer."""

    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        directory = tmp_path / "outside"
        directory.mkdir(mode=0o700)
        (directory / "file").write_bytes(b"untouched")
        (directory / "file").chmod(0o600)
        return directory

    @pytest.mark.parametrize("up", [b"", b"../../../../../../../../../../.."])
    @pytest.mark.attack(31, 33)
    def test_writes_through_links_land_in_the_root(self, unpack: Unpack, outside: Path, up: bytes):
        before = tree(outside)
        target = up + os.fsencode(outside)
        root = unpack(
            tars.archive(
                tars.symlink(b"link", target),
                tars.file(b"link/file", b"written"),
                tars.directory(b"link/new", 0o777),
                tars.file(b"link/.wh.gone"),
                tars.file(b"link/new/.wh..wh..opq"),
                tars.symlink(b"second", b"link"),
                tars.file(b"second/more", b"written"),
            )
        )
        assert tree(outside) == before
        inside = root / str(outside).lstrip("/")
        assert (inside / "file").read_bytes() == b"written"
        assert (inside / "more").read_bytes() == b"written"
        assert is_whiteout(inside / "gone")
        assert is_opaque(inside / "new")

    @pytest.mark.attack(31, 32, 33)
    def test_entries_replace_links_and_never_follow_them(self, unpack: Unpack, outside: Path):
        before = tree(outside)
        target = os.fsencode(outside)
        root = unpack(
            tars.archive(
                tars.symlink(b"a", target + b"/file"),
                tars.file(b"a", b"mine", mode=0o777),
                tars.symlink(b"b", target),
                tars.directory(b"b", 0o777, uid=5),
                tars.symlink(b"c", target + b"/file"),
                tars.header(b"c", b"6"),
                tars.symlink(b"d", target + b"/file"),
                tars.hard_link(b"e", b"d"),
                tars.symlink(b"f", target),
                tars.hard_link(b"g", b"f/file"),
                tars.symlink(b"h", target),
                tars.file(b".wh.h"),
            )
        )
        assert tree(outside) == before
        assert (root / "a").read_bytes() == b"mine"
        assert (root / "b").lstat().st_mode == stat.S_IFDIR | 0o777
        assert (root / "e").is_symlink()
        assert is_whiteout(root / "g")  # the place of a link to a file of a lower layer

    def test_relative_and_dangling_targets_are_made_below_the_root(self, unpack: Unpack):
        root = unpack(
            tars.archive(
                tars.directory(b"var"),
                tars.symlink(b"var/run", b"/run"),
                tars.file(b"var/run/pid", b"1"),
                tars.symlink(b"a", b"var/../usr/./lib/../bin"),
                tars.file(b"a/tool", b"2"),
            )
        )
        assert (root / "run" / "pid").read_bytes() == b"1"
        assert (root / "usr" / "bin" / "tool").read_bytes() == b"2"
        assert (root / "var" / "run").is_symlink()


@pytest.mark.attack(32)
def test_hard_links_through_links_of_the_layer(unpack: Unpack):
    root = unpack(
        tars.archive(
            tars.directory(b"real"),
            tars.file(b"real/file", b"x"),
            tars.symlink(b"link", b"real"),
            tars.hard_link(b"twin", b"link/file"),
            tars.hard_link(b"real/file", b"link/file"),
            tars.file(b"third", b"y"),
            tars.hard_link(b"third", b"twin"),
        )
    )
    assert {p.stat().st_ino for p in (root / "twin", root / "third")} == {
        (root / "real" / "file").stat().st_ino
    }


@pytest.mark.attack(41)
def test_many_directories_and_deep_ones(unpack: Unpack):
    deep = b"/".join([b"d"] * 1000)
    wide = [tars.file(b"w%d/%d/f" % (n % 150, n), b"x") for n in range(600)]
    root = unpack(tars.archive(tars.pax({b"path": deep + b"/f"}), tars.file(b"x", b"deep"), *wide))
    found = subprocess.run(["find", str(root), "-name", "f"], capture_output=True, check=True)
    assert found.stdout.count(b"\n") == 601


@pytest.mark.timeout(60)
@pytest.mark.attack(31)
def test_hostile_resolution_takes_bounded_time(unpack: Unpack):
    # Each link doubles the way: 2^40 steps, were they all taken.
    links = [tars.symlink(b"l%d" % n, b"l%d/../l%d" % (n + 1, n + 1)) for n in range(40)]
    started = time.monotonic()
    with pytest.raises(InvalidLayer):
        unpack(tars.archive(*links, tars.file(b"l0/x")))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("kind", ["links", "implied", "described"])
def test_what_a_layer_makes_the_engine_remember_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr(directories, "_MAX_RECORDED_BYTES", 20_000)
    monkeypatch.setattr(directories, "_MAX_DESCRIBED_BYTES", 20_000)
    long = b"/".join([b"d" * 90] * 10)

    def entry(number: int) -> bytes:
        name = b"%d/" % number + long
        if kind == "links":
            records = {b"path": b"%d" % number, b"linkpath": name}
            return tars.pax(records) + tars.hard_link(b"a", b"b")
        if kind == "implied":
            return tars.pax({b"path": name}) + tars.file(b"f", b"")
        return tars.pax({b"path": b"%d" % number, b"SCHILY.xattr.user.x": long}) + tars.directory(
            b"d", 0o755
        )

    def unpack_entries(count: int) -> None:
        place = tmp_path / str(count)
        place.mkdir()
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            unpack_into(Stream([tars.archive(*map(entry, range(count)))]), root, max_entries=10_000)
        finally:
            os.close(root)

    unpack_entries(3)
    with pytest.raises(InvalidLayer, match=r"the layer('s directories| implies)"):
        unpack_entries(60)


def test_an_ordinary_user_owns_everything_and_gets_no_devices():
    header = tars.pax({b"SCHILY.xattr.user.note": b"n", b"SCHILY.xattr.security.capability": b"x"})
    archive = tars.archive(
        tars.directory(b"./", 0o555),
        header + tars.directory(b"closed", 0o000),
        header + tars.file(b"closed/f", b"x", mode=0o4444, uid=5, gid=6),
        tars.directory(b"closed/sub", 0o500, uid=7),
        tars.file(b"closed/sub/g", mode=0o000),
        tars.file(b"closed/.wh.gone"),
        tars.header(b"null", b"3", device=(1, 3)),
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        if os.geteuid() == 0:
            os.chown(directory, 1000, 1000)
        if (pid := os.fork()) == 0:
            status = 1
            try:
                if os.geteuid() == 0:
                    os.setgid(1000)
                    os.setuid(1000)
                fd = os.open(directory, os.O_RDONLY)
                unpacked = unpack_into(Stream([archive]), fd, max_entries=100)
                assert (unpacked.entries, unpacked.size_bytes) == (7, 1)
                os.chmod(directory, 0o755)
                assert os.stat(f"{directory}/closed").st_mode & 0o7777 == 0
                os.chmod(f"{directory}/closed", 0o700)
                assert os.getxattr(f"{directory}/closed", "user.note") == b"n"
                assert os.getxattr(f"{directory}/closed/f", "user.note") == b"n"
                assert os.stat(f"{directory}/closed/f").st_mode & 0o7777 == 0o4444
                assert is_whiteout(Path(directory) / "closed" / "gone")
                assert os.listdir(directory) == ["closed"]
                os.chmod(f"{directory}/closed/sub", 0o700)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


NAMES = st.lists(
    st.sampled_from([b"a", b"b", b"..", b".", b"", b"etc", b".wh.a", b".wh..wh..opq", b"/"]),
    min_size=1,
    max_size=5,
).map(b"/".join)
TARGETS = st.one_of(NAMES, st.sampled_from([b"/", b"..", b"/outside", b"../../outside/secret"]))
ENTRIES = st.one_of(
    st.builds(tars.file, NAMES, st.binary(max_size=20)),
    st.builds(tars.directory, NAMES, st.sampled_from([0o755, 0o000, 0o7777])),
    st.builds(tars.symlink, NAMES, TARGETS),
    st.builds(tars.hard_link, NAMES, TARGETS),
    st.builds(lambda name: tars.header(name, b"6"), NAMES),
)


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)
@given(entries=st.lists(ENTRIES, max_size=12))
@pytest.mark.attack(30, 31, 32, 33)
def test_nothing_outside_of_the_root_changes(
    tmp_path_factory: pytest.TempPathFactory, entries: list[bytes]
):
    base = tmp_path_factory.mktemp("contained")
    outside = base / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"untouched")
    (base / "root").mkdir()
    before = tree(outside)
    root = os.open(base / "root", os.O_RDONLY)
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        unpack_into(Stream([tars.archive(*entries)]), root, max_entries=100)
    except InvalidLayer:
        pass
    finally:
        assert len(os.listdir("/proc/self/fd")) == descriptors
        os.close(root)
    assert tree(outside) == before
    assert sorted(os.listdir(base)) == ["outside", "root"]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
@pytest.mark.attack(38, 43)
def test_damaged_archives_are_refused_or_unpacked(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    archive = bytearray(
        tars.archive(
            tars.pax({b"path": b"p", b"mtime": b"1.5"}),
            tars.file(b"f", b"x" * 600),
            tars.directory(b"d"),
            tars.gnu_long(b"n" * 120),
            tars.symlink(b"s", b"t"),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(archive) - 1))
        archive[at] = data.draw(st.integers(0, 255))
    base = tmp_path_factory.mktemp("damaged")
    root = os.open(base, os.O_RDONLY)
    try:
        unpack_into(Stream([bytes(archive)]), root, max_entries=100)
    except InvalidLayer:
        pass
    finally:
        os.close(root)
