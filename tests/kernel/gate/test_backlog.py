"""What waits for a slow client: joined, left out with a marker, or kept whatever comes."""

from __future__ import annotations

import time

import pytest
import zmq

from cellblock_kernel.gate.backlog import Backlog
from cellblock_kernel.gate.messages import Signer
from cellblock_kernel.gate.outbox import size_bytes
from support.relays import FRONT_KEY, message, opened


@pytest.fixture
def backlog():
    backlog = Backlog(Signer(FRONT_KEY))
    backlog.most_stream_bytes, backlog.most_bytes = 100_000, 400_000
    backlog.join_beyond_bytes = 10_000
    return backlog


def put(backlog, kind, content, parent=None):
    frames = [zmq.Frame(part) for part in (b"t", *message(FRONT_KEY, kind, content, parent))]
    backlog.append(frames, size_bytes(frames))


def say(backlog, text, parent="p", name="stdout"):
    put(backlog, "stream", {"name": name, "text": text}, {"msg_id": parent})


def taken(backlog):
    found = []
    while backlog:
        found.append(opened(FRONT_KEY, [frame.bytes for frame in backlog.first()])[1:])
        backlog.drop_first()
    assert (backlog._size, backlog._text_size) == (0, 0)
    return found


def test_a_little_is_kept_as_it_came(backlog):
    for number in range(3):
        say(backlog, str(number))
    assert [content["text"] for _, content in taken(backlog)] == ["0", "1", "2"]


def test_more_is_joined_and_nothing_of_it_lost(backlog):
    for number in range(1000):
        say(backlog, f"{number} ")
    found = taken(backlog)
    assert len(found) < 30
    assert "".join(content["text"] for _, content in found).split() == list(map(str, range(1000)))


def test_cells_and_streams_are_not_mixed(backlog):
    for _ in range(200):
        say(backlog, "a", parent="one", name="stdout")
        say(backlog, "b", parent="one", name="stderr")
        say(backlog, "c", parent="two", name="stderr")
    texts = [content["text"].split("\n")[-1] for _, content in taken(backlog)]
    assert {"".join(sorted(set(text))) for text in texts} == {"", "a", "b", "c"}
    assert texts[-3:] == ["a", "b", "c"]


def test_text_that_cannot_be_joined_costs_no_more_time(backlog):
    started = time.monotonic()
    for number in range(5_000):
        say(backlog, "x" * 100, parent=str(number))
    assert time.monotonic() - started < 2
    assert "left out" in taken(backlog)[0][1]["text"]


def test_too_much_text_loses_its_beginning_and_says_so(backlog):
    put(backlog, "status", {"execution_state": "busy"})
    for number in range(3000):
        say(backlog, f"{number:>99}\n")
    put(backlog, "status", {"execution_state": "idle"})
    (first, *middle, last) = taken(backlog)
    assert (first[1], last[1]) == ({"execution_state": "busy"}, {"execution_state": "idle"})
    text = "".join(content["text"] for _, content in middle)
    assert len(text) < 150_000
    _, marker, rest = text.split("\n", 2)
    assert marker.endswith("characters left out, not read in time]")
    left_out = int(marker.split()[1].replace(",", ""))
    assert left_out + len(rest) == 300_000
    assert rest.endswith("2999\n")
    assert text.count("left out") == 1


def test_status_and_errors_stay_when_pictures_go(backlog):
    for number in range(100):
        put(backlog, "status", {"n": number})
        put(backlog, "display_data", {"data": "x" * 10_000})
    put(backlog, "error", {"ename": "E"})
    found = taken(backlog)
    assert [content["n"] for kind, content in found if kind == "status"] == list(range(100))
    assert found[-1][0] == "error"
    assert 0 < sum(kind == "display_data" for kind, _ in found) < 50


def test_nothing_at_all_is_kept_without_bound(backlog):
    for number in range(2000):
        put(backlog, "status", {"n": number, "x": "x" * 1000})
    found = taken(backlog)
    assert found[-1][1]["n"] == 1999
    assert len(found) < 400
