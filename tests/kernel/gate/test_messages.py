"""Messages as they travel: signatures, and what is no message."""

from __future__ import annotations

import zmq
from hypothesis import given
from hypothesis import strategies as st

from cellblock_kernel.gate.messages import (
    DELIMITER,
    Message,
    Signer,
    find_delimiter,
    message_type,
    parse,
    welcome,
)
from support.relays import BACK_KEY, FRONT_KEY, message, opened

KERNEL, CLIENT = Signer(BACK_KEY), Signer(FRONT_KEY)


def framed(parts):
    return [zmq.Frame(part) for part in parts]


def plain(frames):
    return [frame.bytes for frame in frames]


def resign(frames, believed, signer):
    found = Message.read(frames, believed)
    return None if found is None else found.frames(signer)


def test_only_the_signature_is_changed():
    original = [b"a client", *message(BACK_KEY, "stream", {"text": "x"}), b"buffer"]
    resigned = plain(resign(framed(original), KERNEL, CLIENT))
    assert opened(FRONT_KEY, resigned)[0] == [b"a client"]
    assert resigned[:2] + resigned[3:] == original[:2] + original[3:]


def test_a_wrong_signature_is_not_believed():
    assert resign(framed(message(b"guessed", "stream", {})), KERNEL, CLIENT) is None
    unsigned = message(BACK_KEY, "stream", {})
    unsigned[1] = b""
    assert resign(framed(unsigned), KERNEL, CLIENT) is None


def test_an_empty_key_signs_nothing_and_believes_everything():
    resigned = resign(framed(message(b"any", "stream", {})), Signer(b""), Signer(b""))
    assert plain(resigned)[1] == b""


def test_a_cut_message_is_none():
    whole = message(BACK_KEY, "stream", {})
    for length in range(len(whole)):
        assert find_delimiter(framed(whole[:length])) is None


def test_the_delimiter_is_not_searched_for_ever():
    frames = framed([b"identity"] * 1000 + message(BACK_KEY, "stream", {}))
    assert find_delimiter(frames) is None


def test_a_welcome_bears_its_topic_unless_it_is_to_everything():
    assert opened(FRONT_KEY, plain(welcome(b"").frames(CLIENT)))[0] == []
    identities, kind, content = opened(FRONT_KEY, plain(welcome(b"top").frames(CLIENT)))
    assert (identities, kind, content) == ([b"top"], "iopub_welcome", {"subscription": "top"})


def test_a_message_says_what_its_parts_say():
    parts = message(BACK_KEY, "stream", {"text": "x"}, {"msg_id": "asked"})
    found = Message.read(framed([b"a client", *parts, b"buffer"]), KERNEL)
    assert (found.kind, found.parent_id, found.content) == ("stream", "asked", {"text": "x"})
    assert found.id == found.header["msg_id"]
    assert plain(found.buffers) == [b"buffer"]


def test_another_message_differs_in_what_is_said_alone():
    found = Message.read(framed([b"c", *message(BACK_KEY, "stream", {"a": 1}), b"buffer"]), KERNEL)
    other = found.but(content={"b": 2}, buffers=[])
    assert opened(FRONT_KEY, plain(other.frames(CLIENT))) == ([b"c"], "stream", {"b": 2})
    assert (other.id, other.buffers) == (found.id, [])
    assert found.content == {"a": 1}


def test_parts_that_are_no_objects_say_nothing():
    parts = [b"[]", b"1", b"x", b'"y"']
    frames = framed([DELIMITER, KERNEL.sign(parts), *parts])
    found = Message.read(frames, KERNEL)
    assert (found.header, found.parent, found.metadata, found.content) == ({}, {}, {}, {})
    assert (found.kind, found.id, found.parent_id) == ("", "", "")


def test_a_header_that_is_too_large_is_not_parsed():
    header = b'{"msg_type": "iopub_welcome", "x": "' + b"x" * (1 << 16) + b'"}'
    assert message_type(zmq.Frame(header)) == ""
    assert message_type(zmq.Frame(header.replace(b"x" * 100, b""))) == "iopub_welcome"


@given(st.binary() | st.just(b"[" * 100_000) | st.just(b'{"msg_type": 1}') | st.just(b"1" * 5000))
def test_any_part_is_parsed_or_nothing(part):
    assert isinstance(parse(zmq.Frame(part)), dict)
    assert isinstance(message_type(zmq.Frame(part)), str)


@given(st.lists(st.binary(max_size=8) | st.just(DELIMITER), min_size=1, max_size=12))
def test_any_frames_are_believed_or_dropped(parts):
    assert resign(framed(parts), KERNEL, CLIENT) is None


def test_what_could_just_be_parsed_and_cannot_be_written_says_nothing():
    nested = b'{"x":' + b"[" * 700 + b"]" * 700 + b"}"
    hostile = Message([], [zmq.Frame(part) for part in (b"{}", nested, b"{}", nested)])
    assert hostile.content
    assert hostile.parent

    def deeper(levels):
        if levels:
            return deeper(levels - 1)
        return (
            hostile.but(content={**hostile.content, "execution_count": 1}),
            Message.of("stream", {"text": "t"}, parent=hostile.parent),
        )

    changed, made = deeper(500)
    assert changed.content.get("execution_count") in (None, 1)  # some Pythons can write it
    assert not made.parent or made.parent.keys() == {"x"}
    assert made.content == {"text": "t"}
