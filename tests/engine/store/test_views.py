"""Views of layers against what the kernel's overlay shows of the same directories."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cellblock_engine.errors import InvalidLayer, StoreError
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store, views
from cellblock_engine.store.views import Node, Views
from support import tars, treelist

Extract = Callable[[Store, bytes], Digest]
Stack = Callable[..., list[Digest]]

BASE = tars.archive(
    tars.directory(b"./"),
    tars.directory(b"etc/"),
    tars.file(b"etc/a", b"one"),
    tars.file(b"etc/b", b"two"),
    tars.file(b"etc/same", b"unchanged"),
    tars.directory(b"usr/"),
    tars.directory(b"usr/doc/"),
    tars.file(b"usr/doc/long", b"1234567890"),
    tars.directory(b"usr/doc/deep/"),
    tars.file(b"usr/doc/deep/x", b"12345"),
    tars.directory(b"srv/", 0o700),
    tars.file(b"srv/old", b"old"),
    tars.file(b"thing", b"a file"),
    tars.symlink(b"link", b"etc/a"),
)
UPPER = tars.archive(
    tars.file(b"etc/a", b"ONE"),
    tars.file(b"etc/.wh.b"),
    tars.file(b"etc/same", b"unchanged"),
    tars.file(b"etc/new", b"new"),
    tars.file(b"usr/.wh.doc"),
    tars.file(b"srv/.wh..wh..opq"),
    tars.file(b"srv/only", b"only"),
    tars.directory(b"thing/"),
    tars.file(b"thing/inner", b"in"),
    tars.symlink(b"link", b"etc/same"),
    tars.hard_link(b"twin", b"etc/same"),
)


@pytest.fixture
def stack(store: Store, extract: Extract) -> Stack:
    return lambda *archives: [extract(store, archive) for archive in archives]


@contextmanager
def opened() -> Iterator[Views]:
    with ExitStack() as held:
        yield Views(held)


def shown(stack: Sequence[Path]) -> dict[bytes, os.stat_result]:
    """Return every path that the view shows."""
    found: dict[bytes, os.stat_result] = {}
    with opened() as all_:
        todo: list[tuple[bytes, Node]] = [(b"", all_.root(stack))]
        while todo:
            path, node = todo.pop()
            for name, child in all_.children(node, path).items():
                below = os.path.join(path, name)
                found[below] = child.status
                if child.merged:
                    todo.append((below, child))
    return found


def differing(before: Sequence[Path], after: Sequence[Path], **asked) -> dict[str, tuple[str, int]]:
    with opened() as all_:
        rows = list(all_.differences(all_.root(before), all_.root(after), **asked))
    found = {row.path.decode(): (row.sign, row.size_bytes) for row in rows}
    assert len(found) == len(rows)
    return found


@contextmanager
def mounted(stack: Sequence[Path], at: Path) -> Iterator[Path]:
    at.mkdir()
    lower = ":".join(map(str, reversed([at.with_name("empty"), *stack])))
    at.with_name("empty").mkdir(exist_ok=True)
    options = f"lowerdir={lower},userxattr"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_a_view_is_what_the_overlay_shows(root: None, store: Store, stack: Stack, tmp_path: Path):
    upmost = tars.archive(
        tars.file(b"srv/old", b"back"), tars.file(b".wh.thing"), tars.directory(b"usr/doc/")
    )
    for count, archives in enumerate([(BASE,), (BASE, UPPER), (BASE, UPPER, upmost)]):
        paths = store.layers.chain(stack(*archives))
        ours = shown(paths)
        with mounted(paths, tmp_path / f"merged{count}") as at:
            theirs = treelist.tree(at)
        del theirs[b"."]
        assert ours.keys() == theirs.keys()
        for path, status in ours.items():
            node = theirs[path]
            assert (stat.S_IFMT(status.st_mode), status.st_uid) == (node.kind, node.uid), path
            assert stat.S_IMODE(status.st_mode) == node.mode, path
            if node.kind != stat.S_IFDIR:
                assert (status.st_size, status.st_mtime_ns) == (
                    node.size or status.st_size,
                    node.mtime_ns,
                ), path


def test_differences_are_added_changed_and_deleted(store: Store, stack: Stack):
    base, both = (store.layers.chain(stack(*a)) for a in ((BASE,), (BASE, UPPER)))
    assert differing(base, both) == {
        "etc/a": ("C", 3),
        "etc/b": ("D", 3),
        "etc/new": ("A", 3),
        "usr/doc": ("D", 15),
        "srv/old": ("D", 3),
        "srv/only": ("A", 4),
        "thing": ("C", 0),
        "thing/inner": ("A", 2),
        "link": ("C", 0),
        "twin": ("A", 9),
    }
    back = differing(both, base)
    assert back["usr/doc"] == ("A", 0)
    assert back["usr/doc/deep/x"] == ("A", 5)
    assert back["thing"] == ("C", 6)
    assert "thing/inner" not in back
    assert {sign for path, (sign, _) in back.items() if path in ("etc/new", "twin")} == {"D"}


def test_unrelated_images_are_compared_by_content(store: Store, stack: Stack):
    one = tars.archive(tars.file(b"a", b"same"), tars.file(b"b", b"1"), tars.file(b"only", b"x"))
    other = tars.archive(tars.file(b"b", b"2"), tars.file(b"a", b"same"), tars.symlink(b"l", b"a"))
    paths = [store.layers.chain(stack(archive)) for archive in (one, other)]
    found = differing(*paths)
    assert found == {"b": ("C", 1), "only": ("D", 1), "l": ("A", 0)}


def test_attributes_are_changes_and_times_of_directories_are_not(store: Store, stack: Stack):
    changed = tars.archive(
        tars.directory(b"etc/", mtime=5), tars.directory(b"srv/", 0o755), tars.file(b"srv/old")
    )
    paths = [store.layers.chain(stack(*a)) for a in ((BASE,), (BASE, changed))]
    assert differing(*paths) == {"srv": ("C", 0), "srv/old": ("C", 0)}


def test_places_are_left_out_while_they_are_empty(tmp_path: Path):
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    (upper / "proc").mkdir(parents=True)
    (upper / "data").mkdir()
    (upper / "data" / "kept").write_text("kept")
    (upper / "hosts").touch()
    without = {b"proc", b"data", b"hosts"}
    found = differing([lower], [lower, upper], without=without)
    assert found == {"data": ("A", 0), "data/kept": ("A", 4)}


@pytest.mark.attack(40)
def test_a_link_leads_nowhere_else(tmp_path: Path):
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "dir").mkdir(parents=True)
    (lower / "dir" / "inner").write_text("inner")
    upper.mkdir()
    (upper / "dir").symlink_to("/etc")
    assert differing([lower], [lower, upper]) == {"dir": ("C", 0)}


@pytest.mark.attack(40)
def test_hostile_names_and_depths_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    upper.mkdir()
    (upper / "odd\x1b[2J\n").write_text("x")
    os.close(os.open(os.fsencode(upper) + b"/\xff", os.O_CREAT, 0o600))
    with opened() as all_:
        rows = all_.differences(all_.root([lower]), all_.root([lower, upper]))
        assert {row.path for row in rows} == {b"odd\x1b[2J\n", b"\xff"}
    monkeypatch.setattr(views, "_MAX_NAMES", 1)
    with pytest.raises(StoreError, match="more than 1 names"):
        differing([lower], [lower, upper])
    monkeypatch.undo()
    fd = os.open(upper, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 250, dir_fd=fd)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(InvalidLayer, match="too long"):
        differing([lower], [lower, upper])
    from cellblock_engine.store.trees import remove_tree

    remove_tree(upper)  # pytest's own way to clean up does not reach so deep
