"""Frames from hostile containers: nothing but known shapes becomes an event."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellblock_kernel import Display, Error, Result, Stream
from cellblock_kernel.cells.frames import FrameDecoder, FrameError, encode_cell


def frame(header: object, payload: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("!II", len(head), len(payload)) + head + payload


def decode(data: bytes, cap: int = 1 << 20) -> list:
    return list(FrameDecoder(cap).feed(data))


STREAM = frame({"kind": "stream", "name": "stdout"}, b"text")
PARTS = [
    {"type": "text/plain", "size": 3, "binary": False},
    {"type": "image/png", "size": 2, "binary": True},
]


def test_known_kinds_become_events():
    data = (
        STREAM
        + frame({"kind": "display", "parts": PARTS, "metadata": {"a": 1}}, b"abc\x89P")
        + frame({"kind": "result", "parts": PARTS[:1]}, b"abc")
        + frame({"kind": "error", "ename": "E", "evalue": "v"}, b"tb")
    )
    assert decode(data) == [
        Stream("stdout", "text"),
        Display({"text/plain": "abc", "image/png": b"\x89P"}, {"a": 1}),
        Result({"text/plain": "abc"}),
        Error("E", "v", "tb"),
    ]


def test_bytes_may_come_one_by_one():
    decoder = FrameDecoder(1 << 20)
    events = []
    for byte in STREAM * 3:
        events += decoder.feed(bytes([byte]))
    assert events == [Stream("stdout", "text")] * 3


def test_hello_is_kept_and_unknown_kinds_are_noted():
    decoder = FrameDecoder(1 << 20)
    greeting = frame({"kind": "hello", "protocol": 1, "python": "3.8.1"})
    events = list(decoder.feed(greeting + frame({"kind": "comm_open"}, b"x" * 100) + STREAM))
    assert events == [Stream("stdout", "text")]
    assert decoder.hello.python == "3.8.1"
    assert decoder.ignored == {"comm_open"}


def test_frames_that_show_nothing_are_numbered():
    decoder = FrameDecoder(1 << 20)
    with pytest.raises(FrameError, match="show nothing"):
        list(decoder.feed(frame({"kind": "nothing"}) * 20_000))
    assert list(FrameDecoder(1 << 20).feed(STREAM * 20_000)) == [Stream("stdout", "text")] * 20_000


def test_unknown_kinds_do_not_pile_up():
    decoder = FrameDecoder(1 << 20)
    for number in range(1000):
        list(decoder.feed(frame({"kind": f"k{number}"})))
    assert len(decoder.ignored) <= 64


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!II", 0xFFFFFFFF, 0),
        struct.pack("!II", 10, 0xFFFFFFFF),
        struct.pack("!II", (1 << 16) + 1, 0),
        struct.pack("!II", 10, (1 << 20) + 1),
        frame(b""),
        frame(b"not json"),
        frame(b"\xff\xfe"),
        frame(b"[" * 60000),
        frame(b'{"kind": NaN}'),
        frame(b'{"kind": "stream", "name": "stdout", "x": -Infinity}'),
        frame(b'{"kind": "hello", "protocol": ' + b"9" * 5000 + b', "python": ""}'),
        frame([]),
        frame("stream"),
        frame({}),
        frame({"kind": 1}),
        frame({"kind": ["stream"]}),
        frame({"kind": "stream"}),
        frame({"kind": "stream", "name": "stdin"}),
        frame({"kind": "stream", "name": ["stdout"]}),
        frame({"kind": "error", "ename": "E"}),
        frame({"kind": "error", "ename": {"a": 1}, "evalue": ""}),
        frame({"kind": "hello", "protocol": True, "python": ""}),
        frame({"kind": "display"}),
        frame({"kind": "display", "parts": {}}),
        frame({"kind": "display", "parts": PARTS}, b"abc"),
        frame({"kind": "display", "parts": PARTS}, b"abcdef"),
        frame({"kind": "display", "parts": PARTS[:1], "metadata": []}, b"abc"),
        frame({"kind": "display", "parts": [{"type": "text/plain", "size": -1}]}),
        frame({"kind": "display", "parts": [{"type": "text/plain", "size": "3"}]}, b"abc"),
        frame({"kind": "display", "parts": [{"type": "../../x", "size": 0}]}),
        frame({"kind": "display", "parts": [{"type": "text/html\nX: y", "size": 0}]}),
        frame({"kind": "display", "parts": [PARTS]}),
        frame({"kind": "display", "parts": [{"type": "a/b", "size": 0}] * 65}),
    ],
)
@pytest.mark.attack(64)
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(FrameError) as refusal:
        decode(data)
    assert "\n" not in str(refusal.value)


def test_text_that_is_no_unicode_is_replaced():
    head = b'{"kind": "error", "ename": "\\ud800E", "evalue": "v"}'
    assert decode(frame(head, b"\xff!")) == [Error("?E", "v", "\ufffd!")]


def test_names_are_cut():
    (error,) = decode(frame({"kind": "error", "ename": "E" * 9999, "evalue": "v" * 9999}))
    assert (len(error.ename), len(error.evalue)) == (200, 4096)


def test_a_header_cannot_make_the_host_allocate_much():
    decoder = FrameDecoder(64 << 20)
    hostile = frame(b'{"kind": "x", "a": [' + b"[]," * 21000 + b"[]]}")
    tracemalloc.start()
    try:
        for _ in range(20):
            list(decoder.feed(hostile))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_a_promise_of_much_allocates_nothing():
    decoder = FrameDecoder(64 << 20)
    tracemalloc.start()
    try:
        list(decoder.feed(struct.pack("!II", 10, 64 << 20)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def end(number: object, status: object = 0) -> bytes:
    return frame({"kind": "end", "number": number, "status": status})


def test_a_served_cell_ends_by_its_own_number_and_the_rest_is_the_nexts():
    buffer = bytearray()
    decoder = FrameDecoder(1 << 20, number=2, buffer=buffer)
    assert list(decoder.feed(end(1) + STREAM + end(3, 9))) == [Stream("stdout", "text")]
    assert decoder.status is None
    assert list(decoder.feed(end(2, 7) + STREAM + STREAM[:9])) == []
    assert decoder.status == 7
    assert list(decoder.feed(b"")) == []
    following = FrameDecoder(1 << 20, number=3, buffer=buffer)
    assert list(following.feed(STREAM[9:] + end(3))) == [Stream("stdout", "text")] * 2
    assert following.status == 0
    assert buffer == b""


@pytest.mark.parametrize("number", [None, "2", 2.0, -2, True, 1 << 40])
def test_an_end_without_a_number_is_refused(number):
    with pytest.raises(FrameError):
        list(FrameDecoder(1 << 20, number=2).feed(end(number)))


def test_where_nothing_is_served_an_end_is_an_unknown_kind():
    decoder = FrameDecoder(1 << 20)
    assert list(decoder.feed(end(1) + STREAM)) == [Stream("stdout", "text")]
    assert (decoder.status, decoder.ignored) == (None, {"end"})


@given(st.lists(st.binary(max_size=300), max_size=20))
@pytest.mark.attack(64)
def test_random_bytes_give_events_or_a_refusal(pieces):
    decoder = FrameDecoder(1 << 20)
    with contextlib.suppress(FrameError):
        for piece in pieces:
            list(decoder.feed(piece))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["kind", "name", "parts", "metadata", "ename", "evalue", "protocol", "number", "status"]
        ),
        json_values | st.sampled_from(["stream", "display", "error", "hello", "stdout", "end", 1]),
    ),
    st.binary(max_size=20),
)
def test_random_headers_give_events_or_a_refusal(header, payload):
    with contextlib.suppress(FrameError):
        list(FrameDecoder(1 << 20, number=1).feed(frame(header, payload)))


def test_a_cell_of_any_text_can_be_encoded():
    data = encode_cell("x = '\ud800ä'")
    head, payload = struct.unpack_from("!II", data)
    assert data[8 + head :] == b"x = '\\ud800\xc3\xa4'"
    assert payload == len(data) - 8 - head
