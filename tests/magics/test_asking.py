"""A password, from a terminal, a pipe and a front end, and where nobody can be asked."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FAKE = str(Path(__file__).parents[1] / "support" / "fake_engine.py")
LOAD = """
from cellblock import magic
from support.fake_engine import FakeEngine
fake = FakeEngine()
magic.load(get_ipython(), lambda: fake)
"""


def command(*words: str, **options) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, FAKE, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **options)


def test_a_pipe_is_read_when_it_is_asked_for():
    done = command("login", "-u", "anna", "--password-stdin", input="sesame\r\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Login Succeeded: anna on docker.io")


@pytest.mark.parametrize("words", [(), ("-u", "anna")])
def test_nobody_is_asked_through_a_pipe(words):
    done = command("login", *words, input="anna\nsesame\n")
    assert done.returncode == 125
    assert done.stderr.startswith("cellblock: nobody can be asked: stdin is not a terminal")


def test_a_terminal_is_asked_without_echo():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, FAKE, "login", "quay.io"])
    try:
        seen = until(terminal, b"Username: ")
        os.write(terminal, b"anna\n")
        seen += until(terminal, b"Password: ")
        time.sleep(0.2)  # until its echo is off
        os.write(terminal, b"sesame\n")
        seen += until(terminal, b"Login Succeeded: anna on quay.io")
        assert b"sesame" not in seen
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def until(terminal: int, wanted: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + 30
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(terminal, 4096)
    return seen


def test_a_front_end_is_asked_and_the_notebook_does_not_know():
    manager, client = start_new_kernel(env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    asked, outputs = [], []

    def answer(message) -> None:
        asked.append(message["content"])
        client.input("sesame" if message["content"]["password"] else "anna")

    try:
        client.execute_interactive(LOAD, timeout=60)
        for code in (
            "%container login quay.io",
            "print(fake.logins == [('quay.io', 'anna', 'se' + 'same')])",
        ):
            reply = client.execute_interactive(
                code,
                allow_stdin=True,
                stdin_hook=answer,
                output_hook=outputs.append,
                timeout=60,
            )
            assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [(each["prompt"], each["password"]) for each in asked] == [
        ("Username: ", False),
        ("Password: ", True),
    ]
    said = "".join(m["content"]["text"] for m in outputs if m["msg_type"] == "stream")
    assert "Login Succeeded: anna on quay.io" in said
    assert said.endswith("True\n")
    assert not any("sesame" in str(message["content"]) for message in outputs)


def test_where_nobody_watches_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    cells = [nbformat.v4.new_code_cell(code) for code in (LOAD, "%container login quay.io")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(CellExecutionError, match="InvalidInput: nobody can be asked"):
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
