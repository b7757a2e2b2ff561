import logging
import subprocess
import sys

import pytest

from cellblock_engine.log import Log
from cellblock_engine.runtime import launcher


def test_what_is_told_has_the_level_and_the_name_of_the_module(caplog):
    with caplog.at_level(logging.INFO, logger="cellblock_engine"):
        Log("cellblock_engine.there").info("made %d", 3)
        Log("cellblock_engine.there").debug("not asked for")
    assert caplog.record_tuples == [("cellblock_engine.there", logging.INFO, "made 3")]


def test_nobody_who_does_not_listen_imports_logging():
    program = (
        "import sys; from cellblock_engine.log import Log; Log('x').info('made');"
        "print('logging' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        check=True,
    )
    assert said.stdout == "False\n"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_told_in_one_line(platform):
    """Without what Python has on Linux alone, or lacks on Windows."""
    program = f"""
import os, sys
sys.platform = {platform!r}
for name in ("pidfd_open", "memfd_create", "eventfd", "pipe2", "geteuid", "getuid", "fork"):
    delattr(os, name) if hasattr(os, name) else None
gone = ("fcntl", "pwd", "grp", "termios", "resource")
sys.modules.update(dict.fromkeys(gone))  # an import of them raises ModuleNotFoundError
import cellblock
from cellblock.cli import main
assert main(["run", "--help"]) == 0
print(main(["run", "host", "true"]), main(["images"]), main(["pull", "x"]), main(["doctor"]))
try:
    cellblock.Engine
except cellblock.Unsupported as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    line = (
        f"cellblock needs Linux, and this is {platform}: containers are made by its kernel; run "
        "the notebook on a Linux machine, or in a Linux virtual machine (WSL 2, Lima)"
    )
    assert said.stdout.splitlines()[-2:] == ["125 125 125 125", line]
    assert said.stderr.splitlines() == [f"cellblock: {line}"] * 4


def test_the_last_words_of_spawners_are_bounded(tmp_path):
    path = tmp_path / "spawner.log"
    path.write_bytes(b"x" * (1 << 20))
    with launcher._open_log(path) as log:
        log.write(b"yz")
    assert path.stat().st_size == (1 << 20) + 2
    with launcher._open_log(path) as log:
        log.write(b"new")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "spawner.log.1").stat().st_size == (1 << 20) + 2
