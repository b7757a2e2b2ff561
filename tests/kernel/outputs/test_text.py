"""Text from inside keeps its colours and loses everything else that steers a terminal."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellblock_kernel.outputs.text import TextCleaner, clean, one_line

RED = "\x1b[1;31mred\x1b[0m"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\r\n\b", "plain\ttext\r\n\b"),
        (RED, RED),
        ("\x1b[38:5:1mx\x1b[m", "\x1b[38:5:1mx\x1b[m"),
        ("a\x1b[2Jb\x1b[Hc\x1b[?25ld\x1b[6n", "abcd"),
        ("\x1b]0;title\x07a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"),
        ("\x1bPq#0\x1b\\a\x1b_apc\x1b\\b\x1b^pm\x1b\\c", "abc"),
        ("\x1bc\x1b7\x1b(0\x1b#8x", "x"),
        ("\x00\x07\x0b\x0c\x0e\x7f\x85\x9b31mx", "31mx"),
        ("\x1b", ""),
        ("\x1b]0;never ends", "0;never ends"),
        ("grün 🎉", "grün 🎉"),
    ],
)
@pytest.mark.attack(63)
def test_clean(text, shown):
    assert clean(text) == shown


@given(st.lists(st.text(alphabet="\x1b[]0;31m\x07\\Px \x9b\n", max_size=6), max_size=12))
def test_pieces_give_what_the_whole_gives(pieces):
    cleaner = TextCleaner()
    shown = "".join([*map(cleaner.feed, pieces), cleaner.finish()])
    assert shown == clean("".join(pieces))


@given(st.text())
@pytest.mark.attack(63)
def test_no_control_is_left(text):
    left = clean(text)
    assert clean(left) == left or "\x1b" not in left
    assert not set(left) & set("\x00\x07\x0b\x7f\x9b\x9d")


def test_a_sequence_that_never_ends_is_not_kept_for_ever():
    cleaner = TextCleaner()
    for _ in range(100):
        cleaner.feed("\x1b]" + "x" * 200)
    assert len(cleaner.finish()) < 10_000


def test_cleaning_takes_linear_time():
    started = time.monotonic()
    clean("\x1b]" * 200_000 + "\x1b[" * 200_000 + "\x1b[0;" * 100_000)
    assert time.monotonic() - started < 5


def test_one_line():
    assert one_line(f"a\n b\t{RED}", 40) == "a b red"
    assert one_line("x" * 100, 20) == "x" * 16 + " ..."
    assert one_line("Python\u202e\u2066 3\u200b", 40) == "Python 3"  # no other way to read it
