"""What a kernel writes beside its channels."""

from __future__ import annotations

import os

import pytest

from cellblock_kernel.gate.aside import Aside


@pytest.fixture
def ends():
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


@pytest.mark.attack(63)
def test_text_and_colours_pass_and_commands_to_the_terminal_do_not(ends):
    aside = Aside(ends[1])
    for piece in (
        b"caf\xc3",
        b"\xa9 \x1b[31mred\x1b[0m \x1b]52;c;bHM",
        b"K\x07\x1b]0;title\x07on\n",
        b"",
    ):
        aside.feed(piece)
    assert os.read(ends[0], 1000).decode() == "café \x1b[31mred\x1b[0m on\n"
    assert aside.last_line() == "café red on"


def test_an_unfinished_command_is_not_passed_on_at_the_end(ends):
    aside = Aside(ends[1])
    aside.feed(b"end\x1b]0;tit")
    aside.feed(b"")
    assert b"\x1b" not in os.read(ends[0], 1000)


def test_the_last_line_is_short_and_there_may_be_none(ends):
    aside = Aside(ends[1])
    assert aside.last_line() == ""
    aside.feed(b"first\n" + b"x" * 1000 + b"\n\n")
    assert len(aside.last_line()) == 300


def test_a_log_that_is_gone_is_no_error(ends):
    read_end, write_end = os.pipe()
    os.close(read_end)
    Aside(write_end).feed(b"text")
    os.close(write_end)
