import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cellblock_engine.errors import InvalidLayer
from cellblock_engine.layout import Layout
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store
from support import tars

Extract = Callable[[Store, bytes], Digest]
Stack = Callable[..., list[Digest]]

BASE = tars.archive(
    tars.directory(b"./", 0o755),
    tars.directory(b"tmp/", 0o1777),
    tars.directory(b"root/", 0o700),
    tars.directory(b"usr/", 0o755),
    tars.directory(b"usr/lib/", 0o755),
    tars.file(b"usr/lib/tool", b"a tool", mode=0o4755, uid=7, gid=8),
    tars.file(b"usr/lib/other", b"other"),
    tars.symlink(b"usr/lib/link", b"tool"),
)


@pytest.fixture
def stack(store: Store, extract: Extract) -> Stack:
    def stacked(*archives: bytes) -> list[Digest]:
        return [extract(store, archive) for archive in archives]

    return stacked


def shown(paths: Sequence[Path], name: str) -> os.stat_result:
    """Return what overlayfs shows, for names that no layer hides."""
    for path in reversed(paths):
        if os.path.lexists(path / name):
            return (path / name).lstat()
    raise FileNotFoundError(name)


def test_a_stack_that_describes_all_is_the_layers_themselves(store: Store, stack: Stack):
    upper = tars.archive(tars.directory(b"tmp/", 0o1777), tars.file(b"tmp/x"))
    diffids = stack(BASE, upper)
    assert store.layers.chain(diffids) == tuple(map(store.layers.path, diffids))


def test_implied_directories_keep_what_lower_layers_say(store: Store, stack: Stack):
    diffids = stack(
        BASE,
        tars.archive(tars.file(b"tmp/a"), tars.file(b"usr/new/b")),
        tars.archive(tars.file(b"tmp/c"), tars.file(b"root/d")),
    )
    paths = store.layers.chain(diffids)
    assert len(paths) == 4
    assert shown(paths, "tmp").st_mode == stat.S_IFDIR | 0o1777
    assert shown(paths, "root").st_mode == stat.S_IFDIR | 0o700
    assert shown(paths, "usr").st_mode == stat.S_IFDIR | 0o755
    assert shown(paths, "tmp").st_mtime == 1_700_000_000
    assert sorted(os.listdir(paths[-1])) == ["root", "tmp", "usr"]
    assert os.listdir(paths[-1] / "tmp") == []
    assert store.layers.chain(diffids) == paths


def test_what_was_removed_or_replaced_below_says_nothing(store: Store, stack: Stack):
    diffids = stack(
        BASE,
        tars.archive(tars.file(b".wh.tmp"), tars.file(b"root", b"now a file")),
        tars.archive(tars.file(b"tmp/a"), tars.file(b"root/b")),
    )
    assert len(store.layers.chain(diffids)) == 3
    hidden = stack(BASE, tars.archive(tars.file(b"tmp/a")), tars.archive(tars.file(b".wh.tmp")))
    assert len(store.layers.chain(hidden)) == 3


def test_a_directory_that_a_marker_empties_is_itself_as_before(store: Store, stack: Stack):
    marker = tars.file(b"tmp/.wh..wh..opq")
    paths = store.layers.chain(stack(BASE, tars.archive(marker, tars.file(b"tmp/a"))))
    assert shown(paths, "tmp").st_mode == stat.S_IFDIR | 0o1777
    anew = stack(BASE, tars.archive(tars.file(b".wh.tmp"), marker, tars.file(b"tmp/a")))
    assert len(store.layers.chain(anew)) == 2
    anew = stack(BASE, tars.archive(marker, tars.file(b".wh.tmp"), tars.file(b"tmp/a")))
    assert len(store.layers.chain(anew)) == 2


def test_whiteouts_that_nothing_is_below_of_are_not_listed(
    store: Store, stack: Stack, tmp_path: Path, root: None
):
    """Overlayfs merges nothing there, so it would list names that cannot be opened."""
    marked = tars.archive(
        tars.directory(b"new/", 0o711),
        tars.file(b"new/.wh.gone"),
        tars.file(b"implied/.wh.gone"),
        tars.file(b"usr/lib/.wh.tool"),
    )
    paths = store.layers.chain(stack(BASE, marked))
    assert sorted(os.listdir(paths[-1])) == ["implied", "new", "usr"]
    options = f"ro,userxattr,lowerdir={':'.join(map(str, reversed(paths)))}"
    subprocess.run(["mount", "-t", "overlay", "none", tmp_path, "-o", options], check=True)
    try:
        assert os.listdir(tmp_path / "new") == os.listdir(tmp_path / "implied") == []
        assert sorted(os.listdir(tmp_path / "usr" / "lib")) == ["link", "other"]
        assert (tmp_path / "new").stat().st_mode == stat.S_IFDIR | 0o711
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_merged_root(store: Store, stack: Stack):
    lowest = tars.archive(tars.directory(b"./", 0o711, uid=5, gid=6))
    diffids = stack(lowest, tars.archive(tars.file(b"a")))
    top = store.layers.chain(diffids)[-1].stat()
    assert (stat.S_IMODE(top.st_mode), top.st_uid, top.st_gid) == (0o711, 5, 6)
    alone = stack(tars.archive(tars.file(b"a")))
    top = store.layers.chain(alone)[-1].stat()
    attributes = (stat.S_IMODE(top.st_mode), top.st_uid, top.st_gid)
    assert attributes == (0o755, os.geteuid(), os.getegid())


def test_an_opaque_root_hides_all_layers_below(store: Store, stack: Stack):
    diffids = stack(BASE, tars.archive(tars.file(b".wh..wh..opq"), tars.file(b"only")))
    assert store.layers.chain(diffids) == (store.layers.path(diffids[1]),)


def test_hard_links_across_layers(store: Store, stack: Stack):
    diffids = stack(
        BASE,
        tars.archive(
            tars.hard_link(b"tmp/tool", b"usr/lib/tool"),
            tars.hard_link(b"tmp/again", b"tmp/tool"),
            tars.hard_link(b"tmp/gone", b"usr/lib/tool"),
            tars.hard_link(b"tmp/alink", b"usr/lib/link"),
        ),
        tars.archive(tars.file(b"tmp/.wh.gone"), tars.hard_link(b"third", b"tmp/again")),
    )
    paths = store.layers.chain(diffids)
    top = paths[-1]
    tool = (top / "tmp" / "tool").stat()
    assert (top / "tmp" / "tool").read_bytes() == b"a tool"
    assert (tool.st_mode, tool.st_uid, tool.st_gid) == (stat.S_IFREG | 0o4755, 7, 8)
    assert (top / "tmp" / "again").stat().st_ino == tool.st_ino
    assert (top / "third").stat().st_ino == tool.st_ino
    assert os.readlink(top / "tmp" / "alink") == "tool"
    assert not os.path.lexists(top / "tmp" / "gone")
    assert shown(paths, "tmp").st_mode == stat.S_IFDIR | 0o1777


@pytest.mark.parametrize(
    "upper",
    [
        tars.archive(tars.hard_link(b"x", b"nowhere")),
        tars.archive(tars.hard_link(b"x", b"usr/lib")),
        tars.archive(tars.hard_link(b"x", b"usr/lib/tool/below")),
    ],
)
def test_hard_links_to_nothing_are_refused(
    store: Store, layout: Layout, stack: Stack, upper: bytes
):
    diffids = stack(BASE, upper)
    with pytest.raises(InvalidLayer, match="leads to no file"):
        store.layers.chain(diffids)
    assert os.listdir(layout.staging) == []


def test_overlayfs_shows_what_the_stack_means(
    store: Store, stack: Stack, tmp_path: Path, root: None
):
    """A real overlay of a hostile-looking but lawful stack."""
    diffids = stack(
        BASE,
        tars.archive(
            tars.file(b"tmp/a", b"a"),
            tars.file(b"usr/lib/.wh.other"),
            tars.hard_link(b"usr/lib/tool2", b"usr/lib/tool"),
        ),
        tars.archive(
            tars.file(b"root/.wh..wh..opq"),
            tars.file(b"root/r", b"r"),
            tars.file(b".wh.usr"),
            tars.directory(b"usr"),
            tars.file(b"usr/fresh"),
        ),
    )
    merged = tmp_path / "merged"
    merged.mkdir()
    lower = ":".join(map(str, reversed(store.layers.chain(diffids))))
    options = f"ro,userxattr,lowerdir={lower}"
    subprocess.run(["mount", "-t", "overlay", "none", merged, "-o", options], check=True)
    try:
        assert sorted(os.listdir(merged)) == ["root", "tmp", "usr"]
        assert os.listdir(merged / "usr") == ["fresh"]
        assert os.listdir(merged / "root") == ["r"]
        assert (merged / "tmp").stat().st_mode & 0o7777 == 0o1777
        assert (merged / "tmp" / "a").read_bytes() == b"a"
    finally:
        subprocess.run(["umount", merged], check=True)
