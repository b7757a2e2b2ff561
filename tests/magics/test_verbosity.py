import os
import subprocess
import sys

import pytest

from cellblock import InvalidInput
from cellblock.verbosity import Verbosity


@pytest.mark.parametrize(
    ("words", "environ", "level", "rest"),
    [
        (["ps"], {}, None, ("ps",)),
        (["-D", "ps", "-a"], {}, "debug", ("ps", "-a")),
        (["--debug", "run", "-D"], {}, "debug", ("run", "-D")),
        (["-l", "info", "ps"], {}, "info", ("ps",)),
        (["--log-level=WARN", "ps"], {}, "warn", ("ps",)),
        (["ps"], {"CELLBLOCK_LOG": "debug"}, "debug", ("ps",)),
        (["-l", "error", "ps"], {"CELLBLOCK_LOG": "debug"}, "error", ("ps",)),
        (["ps"], {"CELLBLOCK_LOG": ""}, None, ("ps",)),
    ],
)
def test_flags_before_the_verb_and_the_variable(words, environ, level, rest):
    assert Verbosity.parse(words, environ) == Verbosity(level, rest)


@pytest.mark.parametrize(
    ("words", "environ", "line"),
    [
        (["-l"], {}, "-l wants a level: one of debug, info, warn, error, fatal"),
        (["-l", "loud"], {}, "-l: 'loud' is no level: use one of debug, info, warn, error, fatal"),
        (["ps"], {"CELLBLOCK_LOG": "2"}, "CELLBLOCK_LOG: '2' is no level"),
    ],
)
def test_what_is_no_level_is_refused(words, environ, line):
    with pytest.raises(InvalidInput, match=f"^{line}"):
        Verbosity.parse(words, environ)


def test_a_command_tells_on_stderr_what_it_does_and_no_secret(tmp_path):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "cellblock", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "CELLBLOCK_HOME": str(tmp_path / "store")},
            check=True,
        )

    command = ("run", "--rm", "--name", "told", "-e", "TOKEN=hidden", "host", "echo", "out")
    loud = run("-D", *command)
    assert loud.stdout == "out\n"
    assert "DEBUG cellblock_engine.engine: started container" in loud.stderr
    assert "(told) of host, network none, with a new spawner" in loud.stderr
    assert "hidden" not in loud.stderr
    assert run("-l", "info", *command).stderr == run(*command).stderr == ""
