"""The log on disk."""

from __future__ import annotations

import os
import time

from cellblock_engine.runtime import logs


def test_bytes_come_back_as_they_were_written_with_stream_and_time(tmp_path):
    writer = logs.LogWriter(str(tmp_path))
    before = time.time_ns()
    writer.write("stdout", b"one\ntwo")
    writer.write("stderr", b"\xff\x00\n")
    writer.write("stdout", b" and a half\n\n")
    writer.close()
    entries = list(logs.read(str(tmp_path)))
    out = b"".join(entry.data for entry in entries if entry.stream == "stdout")
    err = b"".join(entry.data for entry in entries if entry.stream == "stderr")
    assert out == b"one\ntwo and a half\n\n"
    assert err == b"\xff\x00\n"
    assert all(before <= entry.time_ns <= time.time_ns() for entry in entries)


def test_the_log_stays_bounded_and_keeps_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "LARGEST_FILE", 10_000)
    writer = logs.LogWriter(str(tmp_path))
    for number in range(5_000):
        writer.write("stdout", b"%d\n" % number)
    writer.close()
    kept = [int(entry.data) for entry in logs.read(str(tmp_path))]
    assert kept == list(range(kept[0], 5_000))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 25_000


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    writer = logs.LogWriter(str(tmp_path))
    writer.write("stdout", b"whole\n")
    writer.close()
    with (tmp_path / "log").open("ab") as file:
        file.write(b"2026-01-01T00:00:00.000000000Z stdout F half")
    assert [entry.data for entry in logs.read(str(tmp_path))] == [b"whole\n"]


def test_a_full_disk_does_not_end_the_writer(tmp_path):
    os.symlink("/dev/full", tmp_path / "log")
    writer = logs.LogWriter(str(tmp_path))
    writer.write("stdout", b"lost\n")
    writer.close()
    assert os.readlink(tmp_path / "log") == "/dev/full"
