"""A deadline for a system call that has none."""

from __future__ import annotations

import os
import signal
import time

import pytest

from cellblock_engine.linux.alarm import interrupted


def test_a_call_that_waits_is_ended_and_one_that_is_in_time_is_not():
    before = signal.getsignal(signal.SIGALRM)
    reader, writer = os.pipe()
    begun = time.monotonic()
    with pytest.raises(TimeoutError), interrupted(0.05):
        os.read(reader, 1)
    assert 0.05 <= time.monotonic() - begun < 5
    os.write(writer, b".")
    with interrupted(0.05):
        assert os.read(reader, 1) == b"."
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) is before
    os.close(reader)
    os.close(writer)
