"""Messages as they travel: signatures, and what is no message."""

from __future__ import annotations

import zmq
from hypothesis import given
from hypothesis import strategies as st

from cellblock_kernel.gate.messages import (
    DELIMITER,
    Signer,
    find_delimiter,
    message_type,
    parse,
    resign,
    welcome,
)
from support.relays import BACK_KEY, FRONT_KEY, message, opened

KERNEL, CLIENT = Signer(BACK_KEY), Signer(FRONT_KEY)


def framed(parts):
    return [zmq.Frame(part) for part in parts]


def plain(frames):
    return [frame.bytes for frame in frames]


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
    assert opened(FRONT_KEY, plain(welcome(b"", CLIENT)))[0] == []
    identities, kind, content = opened(FRONT_KEY, plain(welcome(b"top", CLIENT)))
    assert (identities, kind, content) == ([b"top"], "iopub_welcome", {"subscription": "top"})


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
