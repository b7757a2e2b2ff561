"""Work in a process that is root of a store's ids: what comes out of it, and when it ends."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellblock_engine import StoreError
from cellblock_engine.linux import idmaps
from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store, owners, pax
from cellblock_engine.store.inside import Inside
from cellblock_engine.store.pack import archive
from support import capabilities

DEADLINE_S = 20
PARENT = """
import time
from cellblock_engine.linux import idmaps
from cellblock_engine.store.inside import Inside
Inside(idmaps.single).run(time.sleep, 60)
"""


@pytest.fixture(scope="module")
def inside() -> Inside:
    capabilities.need_user_namespaces()
    return Inside(idmaps.single)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_is_done_by_root_of_a_namespace(inside: Inside) -> None:
    assert inside.run(os.getpid) != os.getpid()
    assert inside.run(os.getresuid) == (0, 0, 0)
    assert inside.run(idmaps.own_ids) == 1


def test_where_all_can_be_reached_it_is_done_here() -> None:
    assert Inside(lambda: None).run(os.getpid) == os.getpid()


def test_what_has_a_way_inside_has_it_behind_it_there(inside: Inside, store: Store) -> None:
    assert inside.run(inside.run, os.getppid) == os.getpid()
    missing = Digest.of(b"missing")
    with pytest.raises(StoreError, match="pull its image again"):
        inside.run(type(store.layers).path, store.layers, missing)
    assert inside.run(Store.sweep, store) == ()


def test_an_error_comes_out_as_it_is(inside: Inside, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        inside.run(os.stat, tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")


def test_what_it_tells_developers_is_told_here(
    inside: Inside, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with store.staging.directory():
        (store.layout.staging / "left").mkdir()
        with caplog.at_level("INFO", logger="cellblock_engine"):
            assert inside.run(Store.sweep, store) == ("left",)
    told = ("cellblock_engine.store.store", "what killed processes left: left")
    assert [(r.name, r.getMessage().partition("swept ")[2]) for r in caplog.records] == [told]


def test_one_that_is_killed_is_told_of(inside: Inside) -> None:
    with pytest.raises(StoreError, match="was killed by signal 9: try again"):
        inside.run(signal.raise_signal, signal.SIGKILL)


def test_pieces_come_as_they_are_made(inside: Inside) -> None:
    assert b"".join(inside.pieces(archive, [])) == pax.END
    endless = inside.pieces(itertools.repeat, b"piece")
    assert [next(endless), next(endless)] == [b"piece", b"piece"]
    running = children(os.getpid())
    endless.close()
    assert len(set(running) - set(children(os.getpid()))) == 1


def test_it_ends_with_its_caller(inside: Inside) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT]) as parent:
        deadline = time.monotonic() + DEADLINE_S
        while not (working := children(parent.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parent.kill()
    await_end(working)


@pytest.mark.parametrize(
    ("said", "owner"),
    [
        (b"7:8", (7, 8)),
        (b"4294967294:0", (4294967294, 0)),
        (b"4294967295:0", (0, 0)),
        (b"7", (0, 0)),
        (b"7:8:9", (0, 0)),
        (b"-7:8", (0, 0)),
        (b" 7:8", (0, 0)),
        (b"7:" + b"9" * 60_000, (0, 0)),
        (b"\xb2:8", (0, 0)),
    ],
)
def test_what_is_no_owner_says_nothing(
    inside: Inside, tmp_path: Path, said: bytes, owner: tuple[int, int]
) -> None:
    file = tmp_path / "file"
    file.touch()
    try:
        os.setxattr(file, owners.ATTRIBUTE, said)
    except OSError:
        said = said[:1000]
        os.setxattr(file, owners.ATTRIBUTE, said)
    assert owners.recorded(os.fspath(file)) == owner
