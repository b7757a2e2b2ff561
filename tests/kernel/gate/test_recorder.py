"""What a recorder keeps, within which bounds, and over which ends of a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellblock_engine import ExecutedCell, Provenance
from cellblock_kernel.gate import recorder as recording
from cellblock_kernel.gate.ledger import Request
from cellblock_kernel.gate.messages import Message
from cellblock_kernel.gate.recorder import Recorder, notebook_name


def ask(recorder: Recorder, code: object, *, metadata=None, channel="shell", **content) -> Message:
    request = Message.of("execute_request", {"code": code, **content}, metadata=metadata)
    assert list(recorder.inward(channel, request)) == [request]
    return request


def reply(recorder: Recorder, request: Message, count: object = 1, status="ok") -> None:
    content = {"status": status, "execution_count": count}
    answer = Message.of("execute_reply", content, parent=request.header)
    assert list(recorder.outward("shell", answer)) == [answer]


def executed(recorder: Recorder, code: object, count: object = 1, **asked) -> None:
    reply(recorder, ask(recorder, code, **asked), count)


def told(recorder: Recorder) -> Provenance:
    return Provenance.decode(recorder.record().text)


def cells(recorder: Recorder) -> list[tuple[int | None, str | None]]:
    return [(cell.number, cell.source) for cell in told(recorder).cells]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder("a.ipynb")


def test_cells_are_in_the_order_of_their_ends(recorder):
    slow, quick = ask(recorder, "slow"), ask(recorder, "quick")
    assert cells(recorder) == []
    reply(recorder, quick, 2)
    reply(recorder, slow, 1)
    assert cells(recorder) == [(2, "quick"), (1, "slow")]


def test_secrets_are_numbers_only(recorder):
    executed(recorder, "# cellblock: secret\ntoken = 'hunter2'", 1)
    executed(recorder, "token = 'hunter2'", 2, metadata={"tags": ["secret"]})
    executed(recorder, "%env TOKEN=hunter2", 3)
    assert "hunter2" not in recorder.record().text
    secret = ExecutedCell(1, None, "secret"), ExecutedCell(2, None, "secret")
    assert told(recorder).cells[:2] == secret


@pytest.mark.parametrize("count", [None, True, 0, -1, 1.5, "1", 10**9, [], {}])
def test_a_number_that_cannot_be_is_none(recorder, count):
    executed(recorder, "x", count)
    assert cells(recorder) == [(None, "x")]


def test_a_number_is_not_given_twice_in_a_row(recorder):
    executed(recorder, "x", 1)
    executed(recorder, "y", 1)
    assert cells(recorder) == [(1, "x"), (None, "y")]


@pytest.mark.parametrize("code", [None, 7, ["x"], "", "\n", "%container stats", "%%container info"])
def test_what_is_no_cell_of_the_kernel_is_not_recorded(recorder, code):
    executed(recorder, code)
    executed(recorder, "x", channel="control")
    assert cells(recorder) == []


def test_what_was_executed_meanwhile_is_for_the_next_commit(recorder):
    executed(recorder, "a", 1)
    record = recorder.record()
    executed(recorder, "b", 2)
    recorder.forget(record)
    assert cells(recorder) == [(2, "b")]
    recorder.forget(recorder.record())
    assert cells(recorder) == []
    recorder.forget(record)
    assert cells(recorder) == []


def test_the_newest_are_kept_within_bounds(recorder, monkeypatch):
    monkeypatch.setattr(recording, "_MOST_CELLS", 3)
    monkeypatch.setattr(recording, "_MOST_SOURCES", 10)
    for number in range(1, 6):
        executed(recorder, "x", number)
    assert [number for number, _ in cells(recorder)] == [3, 4, 5]
    assert told(recorder).older_cells == 2
    executed(recorder, "x" * 9, 6)
    assert [number for number, _ in cells(recorder)] == [5, 6]
    record = recorder.record()
    executed(recorder, "x" * 10, 7)
    recorder.forget(record)
    assert cells(recorder) == [(7, "x" * 10)]
    assert told(recorder).older_cells == 0
    executed(recorder, "x" * 65_537, 8)
    assert told(recorder).cells[-1] == ExecutedCell(8, None, "too long")


def test_what_is_never_answered_is_bounded(recorder, monkeypatch):
    monkeypatch.setattr(recording, "_MOST_ASKED", 10)
    first, *_ = [ask(recorder, "x") for _ in range(50)]
    reply(recorder, first)
    assert len(recorder._asked) == 10
    assert (cells(recorder), told(recorder).older_cells) == ([], 40)
    monkeypatch.setattr(recording, "_MOST_ASKED_SOURCES", 100)
    ask(recorder, "x" * 99)
    assert sum(len(cell.source) for cell in recorder._asked.values()) <= 100


def test_a_kernel_that_starts_again_goes_on(recorder, tmp_path: Path):
    executed(recorder, "a\ud800\0", 1)
    executed(recorder, "# cellblock: secret", 2)
    fatal = ask(recorder, "exit()")
    file = tmp_path / "record"
    recorder.leave(tmp_path / "nowhere" / "record")
    unknown = Message.of("execute_request", {"code": "never asked"})
    recorder.leave(file, [Request("shell", fatal), Request("shell", unknown)])
    assert file.stat().st_mode & 0o777 == 0o600
    again = Recorder("a.ipynb")
    again.load(file)
    executed(again, "b", 1)
    assert cells(again) == [(1, "a?\ufffd"), (2, None), (None, "exit()"), (1, "b")]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"cells": 7}'])
def test_what_was_half_saved_is_nothing(recorder, tmp_path: Path, content: bytes):
    file = tmp_path / "record"
    recorder.load(file)
    file.write_bytes(content)
    recorder.load(file)
    assert cells(recorder) == []


def test_another_container_begins_anew(recorder):
    executed(recorder, "a", 1)
    recorder.clear()
    assert told(recorder) == Provenance("a.ipynb")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("/srv/work/a.ipynb", "a.ipynb"),
        ("/srv/work/deep/a.ipynb", "deep/a.ipynb"),
        ("/home/me/private/a.ipynb", "a.ipynb"),
        ("deep/a.ipynb", "a.ipynb"),
        ("", ""),
        ("/srv/work", ""),
        ("/srv/work/\x1b[2J", ""),
        ("/srv/work/" + "x" * 300, ""),
        ("/srv/work/\udcff.ipynb", "?.ipynb"),
    ],
)
def test_a_notebook_has_a_name_below_its_folder(said: str, name: str):
    assert notebook_name({"JPY_SESSION_NAME": said}, Path("/srv/work")) == name
    assert notebook_name({}, Path("/srv/work")) == ""
