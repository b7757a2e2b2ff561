"""kernel install, list and remove, from their words on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cellblock.cli import main


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "kernels"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--network lan host", "--network 'lan' is not known"),
        ("--workspace all host", "--workspace 'all' is not known"),
        ("--memory lots host", "is not a size"),
        ("--memory 1k host", "too small"),
        ("--cpus 0 host", "out of range"),
        ("--pids-limit x host", "not a whole number"),
        ("--timeout soon host", "is not a duration"),
        ("-e =x host", "has no name"),
        ("--user --sys-prefix host", "exclude each other"),
        ("--name a/b host", "is not valid"),
        ("-v relative host", "volume"),
        ("--kernel ir host", "image host has no kernel ir: it has python3"),
    ],
)
def test_install_refuses_in_one_line(words, message, data, capsys):
    assert main(["kernel", "install", *words.split()]) == 125
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not data.exists()


def test_install_list_execute_remove(data, tmp_path, capsys):
    assert (
        main("kernel install host --user --name boxed --pids-limit 500 --timeout 2m".split()) == 0
    )
    assert capsys.readouterr().out == f"boxed: {data / 'boxed'}\n"
    assert main(["kernel", "ls"]) == 0
    assert "pids=500 timeout=2m" in capsys.readouterr().out
    folder = tmp_path / "work"
    folder.mkdir()
    notebook = folder / "n.ipynb"
    notebook.write_text(
        '{"cells":[{"cell_type":"code","id":"a","execution_count":null,"metadata":{},"outputs":[],'
        "\"source\":\"import os; open('made','w').write(os.uname().nodename)\"}],"
        '"metadata":{},"nbformat":4,"nbformat_minor":5}'
    )
    words = [sys.executable, "-m", "jupyter", "execute", "--kernel_name=boxed", str(notebook)]
    subprocess.run(words, check=True, timeout=100, cwd=folder)
    assert (folder / "made").read_text() not in ("", os.uname().nodename)
    assert main(["kernel", "rm", "boxed"]) == 0
    assert not (data / "boxed").exists()


def test_an_untrusted_one_has_no_debugger_and_says_what_it_is(data):
    assert main("kernel install host --user --name wild --untrusted --workspace none".split()) == 0
    spec = json.loads((data / "wild" / "kernel.json").read_text())
    assert "--untrusted" in spec["argv"]
    assert spec["metadata"]["debugger"] is False
    assert spec["display_name"] == "Python in host (untrusted)"
