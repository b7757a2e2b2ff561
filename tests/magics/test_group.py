"""Verbs of two words, on the command line and as magics."""

from __future__ import annotations

import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

from cellblock import magic
from support.fake_engine import __file__ as fake_command


def command(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, fake_command, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def shell(fake):
    shell = InteractiveShell()
    magic.load(shell, lambda: fake)
    return shell


def test_a_verb_of_two_words_does_what_it_says(shell):
    assert command("system", "info", "--json").stdout == command("info", "--json").stdout != ""
    assert shell.run_line_magic("container", "system info --json")["home"] == "/var/lib/cellblock"


@pytest.mark.parametrize("words", [["system"], ["system", "--help"], ["system", "help"]])
def test_the_first_word_alone_lists_the_second(shell, capsys, words):
    done = command(*words)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: cellblock system VERB [OPTIONS] ...\n")
    assert "Show the engine and this machine\n" in done.stdout
    shell.run_line_magic("container", " ".join(words))
    assert capsys.readouterr().out.startswith("usage: %container system VERB [OPTIONS] ...\n")


def test_each_has_help_of_its_own():
    assert command("system", "info", "--help").stdout.startswith("usage: cellblock system info ")


def test_overviews_name_the_first_word_only():
    assert "\n  system  " in command("--help").stdout
    assert "system info" not in command("--help").stdout


def test_a_mistaken_second_word_is_one_line():
    done = command("system", "inof")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        "cellblock: 'inof' is not a verb; did you mean info?; see cellblock system --help\n"
    )
