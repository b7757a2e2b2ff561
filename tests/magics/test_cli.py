"""The command, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FAKE = Path(__file__).parents[1] / "support" / "fake_engine.py"
LOOP = "echo ready; while :; do sleep 0.1; done"


def command(*words: str, **options) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(FAKE), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **options)


@contextmanager
def started(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script that says when it is there, from then on; end it at the end."""
    argv = [sys.executable, str(FAKE), "run", "host", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def test_the_module_is_the_command():
    argv = [sys.executable, "-m", "cellblock", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("usage: cellblock [-D")
    assert command().stdout == done.stdout


def test_run_has_the_workloads_status_and_streams():
    done = command("run", "--rm", "host", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_run_passes_any_bytes_both_ways():
    noise = os.urandom(1 << 20)
    argv = [sys.executable, str(FAKE), "run", "-i", "host", "cat"]
    done = subprocess.run(argv, input=noise, capture_output=True, timeout=60, check=True)
    assert done.stdout == noise


def test_stdin_is_not_taken_without_i():
    done = command("run", "host", "cat", input="ours")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["run", "host", "nosuchcommand"], 127, "nosuchcommand: not found in the container"),
        (["run", "missing:1", "true"], 125, "missing:1: the registry has no such image"),
        (["run", "-m", "64x", "host", "true"], 125, "memory limit '64x' is not a size"),
        (["run", "--nope", "host"], 125, "unknown flag --nope; did you mean --name?; see"),
        (["imges"], 125, "'imges' is not a verb; did you mean images?; see cellblock --help"),
        (["logs", "nope"], 125, "no container nope"),
        (["rm", "up"], 125, "container up is running"),
        (["run", "host", "oom"], 137, "out of memory: the limit of 64 MiB was reached"),
        (["run", "host", "late"], 124, "timed out: the limit of 1 s passed"),
    ],
)
def test_what_went_wrong_is_one_line(words, status, message):
    done = command(*words)
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith(f"cellblock: {message}")
    assert done.stderr.count("\n") == 1


def test_lists_are_tables_or_json():
    lines = command("ps", "-a").stdout.splitlines()
    assert lines[0].split("   ")[0] == "CONTAINER ID"
    assert len(lines) == 3
    rows = json.loads(command("ps", "-a", "--json").stdout)
    assert [row["name"] for row in rows] == ["up", "gone"]
    assert rows[1]["memory_limit_bytes"] == 64 << 20
    assert rows[1]["created"].endswith("Z")
    assert json.loads(command("inspect", "up").stdout)[0]["pid"] == 77
    assert json.loads(command("info", "--json").stdout)["home"] == "/var/lib/cellblock"
    assert command("info").stdout.splitlines()[0].split() == ["home:", "/var/lib/cellblock"]
    assert command("version").stdout.startswith("cellblock:")


def test_ids_only():
    ids = command("ps", "-aq").stdout.split()
    assert [len(each) for each in ids] == [12, 12]


def test_logs_go_to_their_streams():
    done = command("logs", "up")
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "three\n")
    stamped = command("logs", "-t", "-n", "1", "up").stderr
    assert stamped.endswith("Z three\n")


def test_a_pull_in_a_pipe_keeps_stdout_clean():
    done = command("pull", "debian:12")
    assert done.stdout.startswith("debian:12: sha256:")
    assert done.stdout.count("\n") == 1
    assert "debian:12: 1 layer" in done.stderr


def test_an_interrupt_reaches_the_command():
    with started(f"trap 'echo caught; exit 3' INT; {LOOP}") as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stdout, stderr) == (3, b"caught\n", b"")


def test_a_second_interrupt_kills():
    with started(f"trap 'echo deaf' INT; {LOOP}") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == b"deaf\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 137


def test_sigterm_reaches_the_command():
    with started("echo ready; exec sleep 30") as process:
        process.terminate()
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 143


def test_signals_pass_while_nobody_reads_the_output():
    with started("echo ready; exec yes") as process:
        time.sleep(0.3)  # until every pipe is full
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 143


def test_a_reader_that_went_ends_the_command():
    with started("echo ready; exec yes") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 141


def test_a_table_nobody_reads_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    argv = [sys.executable, str(FAKE), "ps", "-a"]
    done = subprocess.run(argv, stdout=write_end, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("version",)])
def test_output_that_cannot_be_written_is_one_line(words: tuple[str, ...]):
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-m", "cellblock", *words]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (125, b"cellblock: No space left on device\n")


def test_a_closed_stdout_is_no_error():
    argv = ["sh", "-c", '"$0" -m cellblock version >&-', sys.executable]
    done = subprocess.run(argv, stderr=subprocess.PIPE, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
