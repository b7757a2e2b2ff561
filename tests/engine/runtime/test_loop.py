"""The monitor's poll loop."""

from __future__ import annotations

import os

from cellblock_engine.runtime.loop import WRITE, Loop


def test_descriptors_and_deadlines_call_back_in_their_time():
    loop, seen = Loop(), []
    read_end, write_end = os.pipe()

    def readable() -> None:
        seen.append(os.read(read_end, 10))

    loop.watch(read_end, readable)
    loop.after(0.01, lambda: os.write(write_end, b"late"))
    loop.after(0.2, loop.stop)
    os.write(write_end, b"early")
    loop.run()
    assert seen == [b"early", b"late"]
    os.close(read_end)
    os.close(write_end)


def test_a_cancelled_deadline_and_an_unwatched_descriptor_are_silent():
    loop, seen = Loop(), []
    read_end, write_end = os.pipe()
    loop.watch(write_end, lambda: seen.append("writable"), WRITE)
    loop.unwatch(write_end)
    loop.unwatch(write_end)
    loop.after(0.0, lambda: seen.append("timer")).cancel()
    loop.after(0.02, loop.stop)
    loop.run()
    assert seen == []
    os.close(read_end)
    os.close(write_end)
