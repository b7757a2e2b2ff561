"""The log on disk."""

from __future__ import annotations

import os
import re
import time

import pytest

from cellblock_engine.runtime import logs

MARKER = r"\[cellblock: (\d+) bytes of output were not logged\]\n"


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


@pytest.mark.attack(25)
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


@pytest.mark.attack(72)
def test_a_full_disk_does_not_end_the_writer(tmp_path):
    os.symlink("/dev/full", tmp_path / "log")
    writer = logs.LogWriter(str(tmp_path))
    writer.write("stdout", b"lost\n")
    writer.close()
    assert os.readlink(tmp_path / "log") == "/dev/full"


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self, monkeypatch):
        self.now_s = 1000.0
        monkeypatch.setattr(logs.time, "monotonic", lambda: self.now_s)


def logged_bytes(directory):
    return sum(file.stat().st_size for file in directory.iterdir())


@pytest.mark.attack(25)
def test_a_flood_is_logged_within_its_budget_and_the_rest_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "BURST_BYTES", 1 << 20)
    monkeypatch.setattr(logs, "BYTES_PER_S", 1 << 17)
    clock = Clock(monkeypatch)
    writer = logs.LogWriter(str(tmp_path))
    flood, written = b"\n" * 1024, 0
    for _ in range(100):
        writer.write("stdout", flood)
        written += len(flood)
    assert logs.BURST_BYTES * 0.9 < logged_bytes(tmp_path) <= logs.BURST_BYTES
    for _ in range(300):  # ten seconds
        clock.now_s += 1 / 30
        writer.write("stdout", flood)
        written += len(flood)
    most = logs.BURST_BYTES + 10 * logs.BYTES_PER_S
    assert most * 0.9 < logged_bytes(tmp_path) <= most + 10_000
    writer.close()
    entries = list(logs.read(str(tmp_path)))
    kept = sum(len(entry.data) for entry in entries if entry.stream == "stdout")
    markers = [entry.data.decode() for entry in entries if entry.stream == "stderr"]
    assert all(re.fullmatch(MARKER, marker) for marker in markers)
    assert 2 <= len(markers) <= 20
    lost = sum(int(re.fullmatch(MARKER, marker)[1]) for marker in markers)
    assert kept + lost == written


def test_what_was_left_out_is_told_before_what_comes_after(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "BURST_BYTES", 1000)
    monkeypatch.setattr(logs, "BYTES_PER_S", 500)
    clock = Clock(monkeypatch)
    writer = logs.LogWriter(str(tmp_path))
    for data in (b"first\n", b"x" * 2000, b"y\n"):
        writer.write("stdout", data)
    clock.now_s += 10
    writer.write("stdout", b"later\n")
    writer.write("stdout", b"z" * 2000)
    writer.close()
    assert [(entry.stream, entry.data) for entry in logs.read(str(tmp_path))] == [
        ("stdout", b"first\n"),
        ("stderr", b"[cellblock: 2000 bytes of output were not logged]\n"),
        ("stdout", b"y\n"),
        ("stdout", b"later\n"),
        ("stderr", b"[cellblock: 2000 bytes of output were not logged]\n"),
    ]
