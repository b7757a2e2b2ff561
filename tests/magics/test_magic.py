"""The magics, through a real shell."""

from __future__ import annotations

import subprocess

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

import cellblock
from cellblock import cells, magic
from cellblock_engine import (
    CommandNotFound,
    ContainerNotFound,
    ImageNotFound,
    InvalidInput,
    OutOfMemory,
)
from support.fake_engine import FakeEngine


@pytest.fixture
def shell(fake):
    shell = InteractiveShell()
    magic.load(shell, lambda: fake)
    return shell


def failure(shell, code: str) -> BaseException:
    result = shell.run_cell(code)
    error = result.error_in_exec
    assert error is not None
    return error


def test_alone_it_says_where_you_are_and_what_next(shell, capsys):
    shell.run_line_magic("container", "")
    lines = capsys.readouterr().out.splitlines()
    assert "store /var/lib/cellblock, 1 image, 2 containers (1 running)" in lines[0]
    assert len([line for line in lines if line.startswith("  %")]) == 4


def test_lists_are_dataframes(shell):
    assert shell.run_cell("df = %container images\ndf.size_bytes.sum()").result == 123_456_789
    found = shell.run_line_magic("container", "ps -a")
    assert isinstance(found, pd.DataFrame)
    assert list(found.name) == ["up", "gone"]
    assert shell.run_line_magic("container", "inspect gone").loc["exit_code", "gone"] == 137
    assert shell.run_line_magic("container", "ps --json")[0]["name"] == "up"


def test_identifiers_can_be_used_in_the_next_line(shell, fake):
    shell.run_cell("cid = %container run -d --name box host sleep 9")
    shell.run_cell("%container stop {cid}")
    assert fake.done == [("stop 10", "box")]
    assert fake.containers()[0].id == shell.user_ns["cid"]
    assert len(shell.run_line_magic("container", "ps -q")[0]) == 12


def test_a_command_streams_to_the_cell(shell, capsys):
    assert shell.run_line_magic("container", "run host sh -c 'echo grün; echo err >&2'") is None
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("grün\n", "err\n")


@pytest.mark.parametrize(
    ("code", "kind", "line"),
    [
        ("%container run missing:1 true", ImageNotFound, "missing:1: the registry has no"),
        ("%container run host nosuchcommand", CommandNotFound, "nosuchcommand: not found"),
        ("%container run -m 64x host true", InvalidInput, "memory limit '64x' is not a size"),
        ("%container imges", InvalidInput, "'imges' is not a verb; did you mean images?"),
        ("%container run 'open", InvalidInput, "the line cannot be split into words"),
        ("%container run host oom", OutOfMemory, "out of memory: the limit of 64 MiB"),
        ("%container run host false", subprocess.CalledProcessError, "Command 'run host false'"),
        ("%%container ps\nx", InvalidInput, "%%container has the verbs run and exec"),
        ("%%container\nx", InvalidInput, "%%container has the verbs run and exec"),
    ],
)
def test_an_error_is_one_line_and_still_an_exception(shell, capsys, code, kind, line):
    assert type(failure(shell, code)) is kind
    captured = capsys.readouterr()
    shown = (captured.out + captured.err).strip()
    assert shown.startswith(f"{kind.__name__}: {line}")
    assert "\n" not in shown


def test_of_a_list_all_failures_are_shown(shell, capsys):
    failure(shell, "%container rm up nope gone")
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "gone"
    assert "Conflict: container up is running" in captured.err
    assert "ContainerNotFound: no container nope" in captured.out + captured.err


def test_help_is_printed(shell, capsys):
    shell.run_line_magic("container", "run --help")
    assert capsys.readouterr().out.startswith("usage: %container run [OPTIONS] IMAGE")
    shell.run_line_magic("container", "--help")
    assert "%container images" in capsys.readouterr().out
    shell.run_cell_magic("container", "run --help", "1")
    assert capsys.readouterr().out.startswith("usage: %%container run [OPTIONS] [IMAGE]")


@pytest.fixture
def seen(monkeypatch) -> list:
    """Return what the magics hand to the runner of cells."""
    handed: list = []
    monkeypatch.setattr(cells, "run_cell", lambda *given: handed.append(given))
    return handed


def test_a_cell_goes_to_the_cell_runner(shell, fake, seen):
    assert (
        shell.run_cell_magic("container", "run debian:12 -m 64m --trust-output", "1 + 1\n") is None
    )
    ((place, source, where, options),) = seen
    assert (source, where) == ("1 + 1\n", shell)
    assert options.trust_output
    ran_by, request = place.python.args
    assert ran_by is fake
    assert (request.image, request.limits.memory_bytes) == ("debian:12", 64 << 20)
    assert place.script.args == place.python.args
    assert fake.image("debian:12")


def test_cells_of_a_running_container_share_a_session(shell, seen, monkeypatch):
    ran: list = []

    def run(session, *_, **options):
        ran.append((session, options))

    monkeypatch.setattr("cellblock_kernel.Session.run", run)
    for flags in ("--timeout 2s", "", "-u 5", "--fresh"):
        shell.run_cell_magic("container", f"exec {flags} up", "1\n")
        place, source, _, _ = seen.pop()
        place.python(source, print, wanted=())
    sessions = [session for session, _ in ran]
    assert ran[0][1] == {
        "name": f"<cell {shell.displayhook.prompt_count}>",
        "timeout_s": 2,
        "wanted": (),
    }
    assert ran[1][1]["timeout_s"] is None
    assert sessions[2]._request.user == "5"
    with pytest.raises(ContainerNotFound):
        shell.run_cell_magic("container", "exec nope", "1\n")
    magic.unload(shell)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_tab_completes_through_the_shell(shell):
    assert shell.Completer.complete(line_buffer="%container pul", cursor_pos=14)[1] == ["pull"]
    line = "%container logs "
    assert shell.Completer.complete(line_buffer=line, cursor_pos=len(line))[1] == ["gone", "up"]


def test_unloading_closes_the_engine(shell, fake):
    shell.run_line_magic("container", "ps")
    cellblock.unload_ipython_extension(shell)
    assert fake.closed == 1
    shell.run_line_magic("container", "ps")  # opens it again
    cellblock.unload_ipython_extension(shell)
    assert fake.closed == 2


def test_loading_opens_nothing():
    shell = InteractiveShell()

    def never() -> FakeEngine:
        raise AssertionError

    magic.load(shell, never)
    assert "container" in shell.magics_manager.magics["line"]
    assert "container" in shell.magics_manager.magics["cell"]
