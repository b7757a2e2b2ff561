"""A kernelspec's command line: what is said comes back, and what is not understood is one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cellblock_engine import InvalidInput
from cellblock_kernel.gate.options import CONNECTION_FILE, MODULE, KernelOptions, command, parse

EVERYTHING = KernelOptions(
    image="python:3.12",
    network="host",
    workspace="ro",
    memory="1g",
    cpus=1.5,
    pids_limit=100,
    timeout="2m",
    volume=("/a:/b:ro", "/c:/d"),
    env=("A=1", "-B= x=y", "NAME"),
    keep=True,
    untrusted=True,
)
ARGV = ("python3", "-m", "ipykernel_launcher", "-f", CONNECTION_FILE, "--", "--image=x")


@pytest.mark.parametrize("options", [KernelOptions(), EVERYTHING])
def test_what_a_kernelspec_says_is_what_the_gate_hears(options):
    words = command(options, ARGV)
    heard = parse(words[words.index(MODULE) + 1 :])
    assert heard.kernel == options
    assert heard.argv == ARGV
    assert not heard.provisioned


@pytest.mark.attack(20)
@pytest.mark.parametrize("module", ["zmq", "argparse", "cellblock_kernel"])
def test_what_a_kernel_left_in_the_notebooks_folder_is_not_imported(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("open('owned', 'w').close()")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [*command(KernelOptions(), ARGV)[:-1], "x"]
    gate = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert gate.returncode == 125  # there is no such connection file
    assert not (tmp_path / "owned").exists()


def test_defaults_are_not_written():
    assert KernelOptions().words() == []


@pytest.mark.parametrize(
    "words",
    [
        ["-f", "c"],
        ["--", "x"],
        ["-f", "c", "--cpus=many", "--", "x"],
        ["-f", "c", "--workspace=all", "--", "x"],
        ["-f", "c", "--mem=1g", "--", "x"],
        ["-f", "c", "stray", "--", "x"],
    ],
)
def test_what_cannot_be_meant_is_one_line(words):
    with pytest.raises(InvalidInput) as caught:
        parse(words)
    assert "\n" not in str(caught.value)
