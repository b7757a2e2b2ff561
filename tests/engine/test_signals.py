"""Names and numbers of signals."""

from __future__ import annotations

import signal

import pytest

from cellblock_engine import InvalidInput
from cellblock_engine.signals import parse_signal


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", signal.SIGKILL),
        ("KILL", signal.SIGKILL),
        ("sigterm", signal.SIGTERM),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMAX-1", signal.SIGRTMAX - 1),
        ("RTMIN", signal.SIGRTMIN),
    ],
)
def test_signals_are_read_as_docker_reads_them(text: str, number: int):
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "65", "9999999", "\N{SUPERSCRIPT TWO}", "SIG", "SIGFOO", "RTMIN+99"]
)
def test_what_is_no_signal_is_refused(text: str):
    with pytest.raises(InvalidInput, match="is not a signal"):
        parse_signal(text)
