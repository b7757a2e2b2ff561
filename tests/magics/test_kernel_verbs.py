"""``kernel install``, ``list`` and ``remove``, on the command line and as magics."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def cellblock(tmp_path):
    """Run the command in a store and a Jupyter of its own."""
    env = {
        **os.environ,
        "CELLBLOCK_HOME": str(tmp_path / "store"),
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
    }

    def run(*words):
        argv = [sys.executable, "-m", "cellblock", *words]
        return subprocess.run(
            argv, env=env, capture_output=True, text=True, check=False, timeout=100
        )

    return run


def test_install_list_and_remove(cellblock, tmp_path):
    where = tmp_path / "jupyter" / "kernels" / "lab"
    flags = ["--name", "lab", "--display-name", "My lab", "-m", "1g", "--workspace", "ro"]
    done = cellblock("kernel", "install", *flags, "-e", "A=1", "host")
    assert done.stdout == f"Installed kernel lab (My lab) in {where}\n", done.stderr
    (row,) = json.loads(cellblock("kernel", "list", "--json").stdout)
    assert (row["name"], row["display_name"], row["image"]) == ("lab", "My lab", "host")
    assert (row["memory"], row["workspace"], row["network"]) == ("1g", "ro", "none")
    line = cellblock("kernel", "list").stdout.splitlines()[1]
    assert "memory 1g" in line
    assert cellblock("kernel", "remove", "lab").stdout == f"Removed {where}\n"
    assert json.loads(cellblock("kernel", "list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--workspace", "no"], "workspace 'no' is not known: use one of rw, ro, none"),
        (["--user", "--sys-prefix"], "give one of --user, --sys-prefix and --prefix"),
        (["-e", "=x"], "environment variable '=x' is not valid: write NAME=VALUE"),
        (["--cpus", "many"], "'many' is not a number"),
        (["--pull", "never", "no.such/image"], "image no.such/image is not in the store"),
    ],
)
def test_bad_words_are_one_line_and_install_nothing(cellblock, tmp_path, words, line):
    done = cellblock("kernel", "install", *words)
    assert done.returncode == 125
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "jupyter").exists()
