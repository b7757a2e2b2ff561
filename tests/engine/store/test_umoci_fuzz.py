"""Random layers are the same tree to us and to umoci, or are refused for a reason named here."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from cellblock_engine.errors import InvalidLayer
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store, tar
from cellblock_engine.store.pack import pack
from support import capabilities, tars
from support.layouts import LAYER, LayoutWriter, WrittenLayer
from support.treelist import Node, differences, tree

EXAMPLES = int(os.environ.get("CELLBLOCK_EXAMPLES", "250")) // 2  # each runs umoci and mounts

# The layer below: whiteouts, links and replacements of the random one find something here.
BASE = tars.archive(
    tars.directory(b"./"),
    tars.directory(b"a", 0o750, uid=3, gid=4),
    tars.file(b"a/a", b"base", mode=0o640),
    tars.directory(b"a/b"),
    tars.file(b"a/b/c", b"deep"),
    tars.file(b"b", b"file"),
    tars.directory(b"c", 0o1777),
    tars.symlink(b"c/a", b"../b"),
)

# What we refuse, and why a layer that umoci takes may be refused.
REFUSALS = {
    "leaves its directory": "names with .. are resolved by umoci, never made by its packers",
    "is inside of a whiteout": "umoci takes the whiteout for a directory's name",
    "names no file": "a whiteout of nothing",
    "is not a directory": "an entry for the root itself that is a file or a link",
    "loop of symbolic links": "umoci's limit is 255 links, the kernel's 40",
    "has no usable target": "symbolic links with no target",
    "has no target": "hard links with no target, or to the root",
    "leads to a directory": "link(2) has no such links",
    "leads to a file that is removed": "a hard link's target that a whiteout of its layer hides",
    "leads to no file of it": "a hard link's target that no layer has as a file",
    "cannot be made: No such file": "a hard link that takes the place of its target's directory",
    "ends in the middle": "a truncated archive",
    "has the number": "512 bytes that are no header",
    "check sum is wrong": "512 bytes that are no header",
    "goes on after an end-of-archive block": "bytes that umoci does not look at",
}


PLAIN = st.builds(
    lambda above, name: above + name,
    st.sampled_from([b"", b"", b"a/", b"a/b/", b"b/", b"c/", b"c/c/"]),
    st.sampled_from([b"a", b"b", b"c", b"\xff\n", b"n" * 120]),
)
ODD = st.sampled_from(
    [b"./a", b"/a", b"a//b/.", b"a/../b", b"../outside/x", b"c/../../b", b".", b""]
)
# Not below files of the base: umoci keeps such a file, overlayfs shows the marker's directory.
MARKERS = st.builds(
    lambda above, name: above + name,
    st.sampled_from([b"", b"a/", b"a/b/", b"c/", b"c/b/", b"./a//"]),
    st.sampled_from([b".wh.a", b".wh.b", b".wh.c", b".wh..wh..opq", b".wh..wh.x"]),
)
# Not .wh..wh.x/y, which is AUFS's own: umoci makes files of it, we leave it out as docker does.
ODD_MARKERS = st.sampled_from([b".wh.", b"a/.wh.", b".wh.a/b", b".wh...", b"a/.wh.."])
TARGETS = st.sampled_from([b"a", b"c", b"b", b"../b", b"a/b", b"/a", b"./c/..", b"/", b".."])
OUTSIDE = st.sampled_from([b"../../outside/secret", b"../outside", b"/nowhere", b""])
FILES = st.sampled_from([b"a/a", b"a/b/c", b"b", b"c/a", b"./b", b"c/c"])
# No set-group-id: the directories that umoci implies below one inherit it, ours are always 0755.
MODES = st.sampled_from([0o644, 0o755, 0o000, 0o4755, 0o5777])
OWNERS = st.sampled_from([0, 7, 65534, 3_000_000_000])
TIMES = st.sampled_from([0, 1, 1_600_000_000, -5, 2**33])


def entry(kind: bytes, name: bytes, link: bytes, data: bytes, long: bytes, **of: int) -> bytes:
    """Return an entry whose name comes in the header, in a pax record or in GNU's extension."""
    size = len(data) if kind == b"0" else 0
    before = b""
    if long == b"x" or len(name) > 100:
        before = tars.pax({b"path": name, b"mtime": b"%d.25" % abs(of["mtime"])})
    elif long == b"L":
        before = tars.gnu_long(name)
    header = tars.header(
        name if not before else b"short",
        kind,
        size=size,
        link=link if kind in b"12" else b"",
        device=(1, 3) if kind == b"3" else (0, 0),
        **of,
    )
    return before + header + (tars.padded(data) if size else b"")


def entries_of(
    kinds: list[bytes], entry_names: st.SearchStrategy[bytes], targets: st.SearchStrategy[bytes]
) -> st.SearchStrategy[bytes]:
    return st.builds(
        entry,
        st.sampled_from(kinds),
        entry_names,
        targets,
        st.binary(max_size=700),
        st.sampled_from([b"", b"", b"x", b"L"]),
        mode=MODES,
        uid=OWNERS,
        gid=OWNERS,
        mtime=TIMES,
    )


ENTRIES = st.one_of(
    entries_of([b"0", b"3", b"5", b"5", b"6"], PLAIN, TARGETS),
    entries_of([b"2"], PLAIN, TARGETS),
    entries_of([b"1"], PLAIN, FILES),
)
HOSTILE = st.one_of(
    entries_of([b"0", b"1", b"2", b"3", b"5", b"6"], st.one_of(ODD, PLAIN), OUTSIDE),
    st.builds(tars.file, ODD_MARKERS),
    st.binary(min_size=512, max_size=512),
)


@st.composite
def layers(draw: st.DrawFn) -> bytes:
    """Return an archive: mostly sound, one in five with something hostile in it or cut short."""
    # Markers first, as layer.md wants them: to umoci, a later one means something else.
    whiteouts = draw(st.lists(st.builds(tars.file, MARKERS), max_size=3))
    entries = whiteouts + draw(st.lists(ENTRIES, min_size=1, max_size=8))
    damage = draw(st.sampled_from(["", "", "", "", "", "", "", "", "hostile", "cut"]))
    if damage == "hostile":
        entries.insert(draw(st.integers(0, len(entries))), draw(HOSTILE))
    archive = tars.archive(*entries)
    return archive[: draw(st.integers(1, len(archive)))] if damage == "cut" else archive


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Counter[str]]:
    """Count what came of the layers: a comparison that is hardly ever made shows nothing."""
    counted: Counter[str] = Counter()
    yield counted
    assert counted["compared"] * 4 > counted.total(), counted


@pytest.fixture(scope="module")
def needs(root: None) -> None:
    capabilities.need_program("umoci")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="CELLBLOCK_EXAMPLES" not in os.environ,  # only make fuzz looks for new ones
    suppress_health_check=[HealthCheck.differing_executors],
)
@given(archive=layers())
@pytest.mark.attack(30, 31, 32, 33)
def test_random_layers_unpack_as_umoci_unpacks_them(
    shared_store: Store,
    tmp_path_factory: pytest.TempPathFactory,
    outcomes: Counter[str],
    needs: None,
    archive: bytes,
):
    base = tmp_path_factory.mktemp("fuzz")
    (base / "outside").mkdir()
    (base / "outside" / "secret").write_bytes(b"untouched")
    canary = tree(base / "outside")
    began_ns = time.time_ns() - 10**9  # file systems' clocks lag by a tick
    written = write_image(base / "image", [BASE, archive])
    try:
        try:
            ours = unpack_with_us(shared_store, base, written)
        except InvalidLayer as error:
            outcomes["refused: " + listed_reason(error)] += 1
            return  # umoci 0.4 is never shown these: one of them removes what its root is in
        assert_packs(shared_store, base, Digest.of(archive))
        theirs = unpack_with_umoci(base)
        if theirs is None:
            outcomes["umoci refuses"] += 1
            return
        outcomes["compared"] += 1
        note("\n".join(str(e[:8]) for e in tar.entries(tar.Stream([archive]), 100)))
        if b"/.wh." in archive:
            drop_empty_directories(ours, theirs)
        assert differences(without_new_times(ours, theirs, began_ns), theirs) == []
    finally:
        assert tree(base / "outside") == canary
        shutil.rmtree(base)


def assert_packs(store: Store, base: Path, diffid: Digest) -> None:
    """Packed and unpacked again, it is the same tree, but for times of its root and whiteouts."""
    if store.layers.record(diffid).links:
        return  # to files of other layers: no container makes any
    layer = store.layers.path(diffid)
    root = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
    packed = b"".join(pack(root))
    os.close(root)
    (base / "packed").write_bytes(packed)
    store.layers.extract(base / "packed", LAYER, Digest.of(packed))
    again, expected = (
        {
            name: replace(node, mtime_ns=0) if name == b"." or is_whiteout(node) else node
            for name, node in tree(directory).items()
        }
        for directory in (store.layers.path(Digest.of(packed)), layer)
    )
    assert differences(again, expected) == []


def is_whiteout(node: Node) -> bool:
    return stat.S_ISCHR(node.kind) and node.device == 0


def without_new_times(
    ours: dict[bytes, Node], theirs: dict[bytes, Node], began_ns: int
) -> dict[bytes, Node]:
    """Take over umoci's time of unpacking, and the root's, which is the upper's in containers.

    Umoci touches directories that an entry implies a part of; ours keep what the base says.
    """
    ends_ns = time.time_ns()
    return {
        name: replace(node, mtime_ns=other.mtime_ns)
        if (other := theirs.get(name)) is not None
        and (name == b"." or (stat.S_ISDIR(node.kind) and began_ns < other.mtime_ns < ends_ns))
        else node
        for name, node in ours.items()
    }


def drop_empty_directories(ours: dict[bytes, Node], theirs: dict[bytes, Node]) -> None:
    """A directory that only markers imply is there with us, as with docker; umoci makes none."""
    for name in sorted(ours.keys() - theirs.keys(), reverse=True):
        if stat.S_ISDIR(ours[name].kind) and not any(n.startswith(name + b"/") for n in ours):
            del ours[name]


def listed_reason(error: InvalidLayer) -> str:
    reason = next((reason for reason in REFUSALS if reason in str(error)), "")
    assert reason, error
    return reason


def write_image(directory: Path, archives: list[bytes]) -> list[WrittenLayer]:
    writer = LayoutWriter(directory)
    layers = [
        WrittenLayer(writer.blob(data, LAYER), f"sha256:{hashlib.sha256(data).hexdigest()}")
        for data in archives
    ]
    writer.image(layers)
    return layers


def unpack_with_umoci(base: Path) -> dict[bytes, Node] | None:
    done = subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{base / 'image'}:latest", base / "theirs"],
        check=False,
        capture_output=True,
        timeout=60,
    )
    return None if done.returncode else tree(base / "theirs")


def unpack_with_us(store: Store, base: Path, layers: list[WrittenLayer]) -> dict[bytes, Node]:
    diffids = [Digest.parse(layer.diff_id) for layer in layers]
    for layer, diffid in zip(layers, diffids, strict=True):
        blob = base / "image" / "blobs" / "sha256" / layer.descriptor["digest"][7:]
        store.layers.extract(blob, LAYER, diffid)
    merged, lowest = base / "merged", base / "lowest"
    merged.mkdir()
    lowest.mkdir()  # overlayfs wants two directories; an opaque root leaves one
    lower = [*reversed(store.layers.chain(diffids)), lowest]
    options = f"ro,userxattr,lowerdir={':'.join(map(str, lower))}"
    subprocess.run(["mount", "-t", "overlay", "none", merged, "-o", options], check=True)
    try:
        return tree(merged)
    finally:
        subprocess.run(["umount", merged], check=True)
