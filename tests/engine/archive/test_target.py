"""A file of an archive is there whole or not at all, and nothing is beside it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cellblock_engine import InvalidInput, StoreError
from cellblock_engine.archive import target
from cellblock_engine.archive.target import write

WHOLE = b"a" * 3_000_000


def archive(byte: bytes = b"a") -> Iterator[bytes]:
    for _ in range(3):
        yield byte * 1_000_000


def broken() -> Iterator[bytes]:
    yield b"some"
    raise StoreError("no more of it")


@pytest.fixture(params=["nameless", "named"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that have files without a name, and those that have not."""
    if request.param == "nameless":
        return
    opened = os.open

    def refuse(path: Any, flags: int, *words: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return opened(path, flags, *words, **named)

    monkeypatch.setattr(target.os, "open", refuse)


@pytest.mark.usefixtures("kind")
def test_a_file_appears_whole(tmp_path: Path):
    file = tmp_path / "out.tar"
    for _ in range(2):
        write(archive(), file)
        assert file.read_bytes() == WHOLE
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert os.listdir(tmp_path) == ["out.tar"]


@pytest.mark.usefixtures("kind")
def test_what_fails_changes_nothing(tmp_path: Path):
    file = tmp_path / "out.tar"
    with pytest.raises(StoreError, match="no more of it"):
        write(broken(), file)
    assert os.listdir(tmp_path) == []
    file.write_text("before")
    with pytest.raises(StoreError, match="no more of it"):
        write(broken(), file)
    assert (os.listdir(tmp_path), file.read_text()) == (["out.tar"], "before")
    with pytest.raises(InvalidInput, match="No such file"):
        write(archive(), tmp_path / "none" / "out.tar")


@pytest.mark.usefixtures("kind")
def test_what_a_killed_one_left_is_taken_away(tmp_path: Path):
    """What is being written by another, and what is no file of ours, stays."""
    file, elsewhere = tmp_path / "out.tar", tmp_path / "elsewhere"
    elsewhere.write_text("not to be touched")
    (tmp_path / ".out.tar.0123456789abcdef.cellblock").write_text("left")
    (tmp_path / ".out.tar.link.cellblock").symlink_to(elsewhere)
    os.mkfifo(tmp_path / ".out.tar.fifo.cellblock")
    busy = tmp_path / ".out.tar.busy.cellblock"
    with busy.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write(archive(), file)
    assert sorted(os.listdir(tmp_path)) == [
        ".out.tar.busy.cellblock",
        ".out.tar.fifo.cellblock",
        ".out.tar.link.cellblock",
        "elsewhere",
        "out.tar",
    ]
    assert file.read_bytes() == WHOLE
    assert elsewhere.read_text() == "not to be touched"


def test_the_file_that_a_link_leads_to(tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/out.tar")
    for _ in range(2):
        write(archive(), tmp_path / "link")
        assert (tmp_path / "there" / "out.tar").read_bytes() == WHOLE
    assert (tmp_path / "link").is_symlink()


@pytest.mark.usefixtures("kind")
def test_several_write_one_file(tmp_path: Path):
    file = tmp_path / "out.tar"
    failed: list[Exception] = []

    def save(byte: bytes) -> None:
        try:
            for _ in range(4):
                write(archive(byte), file)
        except (OSError, StoreError) as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(byte,)) for byte in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    content = file.read_bytes()
    assert content == content[:1] * 3_000_000
    assert os.listdir(tmp_path) == ["out.tar"]


@pytest.mark.usefixtures("root")
def test_a_link_that_another_user_has_laid_is_not_followed(tmp_path: Path):
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    shared.mkdir()
    shared.chmod(0o1777)
    mine.write_bytes(b"mine")
    for name, leads_to in (("out.tar", mine), ("folder", tmp_path)):
        (shared / name).symlink_to(leads_to)
        os.chown(shared / name, 12345, 12345, follow_symlinks=False)
    for path in (shared / "out.tar", shared / "folder" / "mine"):
        with pytest.raises(InvalidInput, match="is a link that another user has made"):
            write(archive(), path)
    assert mine.read_bytes() == b"mine"
    (shared / "own.tar").symlink_to(mine)
    write(archive(), shared / "own.tar")
    assert mine.read_bytes() == WHOLE
