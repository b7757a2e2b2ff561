"""Copying between a command and whoever reads it."""

from __future__ import annotations

import io
import os
import select
import threading
from contextlib import closing

import pytest

from cellblock.streams import feed, hang_up, pump, to_descriptor, to_text, write_all
from support.fake_engine import Attached


def shell(script: str, *, interactive: bool = False) -> Attached:
    return Attached(("sh", "-c", script), {}, interactive=interactive)


def test_bytes_pass_as_they_are_and_streams_apart():
    noise = bytes(range(256)) * 4096
    out, err = bytearray(), bytearray()
    with shell("cat >&2; echo end", interactive=True) as attached:
        read_end, write_end = os.pipe()
        with os.fdopen(read_end), os.fdopen(write_end, "wb") as source:
            feed(attached, read_end)
            writer = threading.Thread(target=lambda: (source.write(noise), source.close()))
            writer.start()
            pump(attached, out.extend, err.extend)
            writer.join(timeout=30)
        assert attached.wait(10).exit_code == 0
    assert bytes(out) == b"end\n"
    assert bytes(err) == noise


def test_a_reader_that_went_ends_the_writer():
    def gone(_: bytes) -> None:
        raise BrokenPipeError

    err = bytearray()
    with shell("yes; echo $? >&2") as attached:
        pump(attached, gone, err.extend)
    assert err.strip() == b"141"  # 128 + SIGPIPE: it was told


def test_feeding_survives_a_command_that_reads_nothing():
    with shell("exec true", interactive=True) as attached:
        read_end, write_end = os.pipe()
        with os.fdopen(read_end), closing(os.fdopen(write_end, "wb", buffering=0)) as source:
            thread = feed(attached, read_end)
            pump(attached, lambda _: None, lambda _: None)
            attached.wait(10)
            source.write(b"unread")
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_output_that_the_container_takes_back_does_not_stop_the_pump():
    got = []
    with shell("printf one; printf two >&2; sleep 0.5; printf three >&2") as attached:
        for fd in (attached.stdout, attached.stderr):
            os.set_blocking(fd, False)
            assert select.select([fd], [], [], 20)[0]

        def steal_from(fd: int):
            def sink(chunk: bytes) -> None:
                if not got:  # between the poll that announced it and the read
                    assert os.read(fd, 100) in (b"one", b"two")
                got.append(chunk)

            return sink

        pump(attached, steal_from(attached.stderr), steal_from(attached.stdout))
    assert b"".join(got) in (b"onethree", b"twothree")


def test_hanging_up_keeps_the_number():
    read_end, write_end = os.pipe()
    hang_up(read_end)
    with pytest.raises(BrokenPipeError):
        os.write(write_end, b"x")
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    os.close(write_end)


def test_write_all_goes_on_where_write_stopped():
    read_end, write_end = os.pipe()
    data = os.urandom(1 << 20)
    got = bytearray()

    def drain() -> None:
        while chunk := os.read(read_end, 1 << 16):
            got.extend(chunk)

    reader = threading.Thread(target=drain)
    reader.start()
    write_all(write_end, data)
    to_descriptor(write_end)(b"more")
    os.close(write_end)
    reader.join(timeout=30)
    os.close(read_end)
    assert bytes(got) == data + b"more"


def test_text_is_decoded_across_chunks():
    stream = io.StringIO()
    sink = to_text(stream)
    for byte in "grün ✓".encode():
        sink(bytes([byte]))
    sink(b"\xff")
    sink(b"\xe2\x9c")
    sink(b"")
    assert stream.getvalue() == "grün ✓\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


def test_of_control_sequences_colours_stay():
    stream = io.StringIO()
    sink = to_text(stream)
    for chunk in (b"\x1b[31mred\x1b[0m", b"\x1b]0;ti", b"tle\x07 plain\x1b[2J", b""):
        sink(chunk)
    assert stream.getvalue() == "\x1b[31mred\x1b[0m plain"
