"""A notebook is executed by papermill on a kernel in a container of an image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat

from support.lab import TIMEOUT_S, Lab

CELLS = (
    "limit = 3",
    "import os; print(limit, os.getpid() < 10, os.listdir('/sys/class/net'))",
    "open('made', 'w').write('by the notebook'); import ipykernel; print(ipykernel.__file__)",
)


def test_papermill(lab: Lab, tmp_path: Path, limits_are_enforced: bool) -> None:
    jupyter = {
        "JUPYTER_PATH": str(tmp_path / "share"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    env = {**lab.env, **jupyter}
    limits = ["--memory", "512m", "--pids-limit", "200"] if limits_are_enforced else []
    _command(
        ["-m", "cellblock", "kernel", "install", "--user", "--name", "boxed", *limits, lab.image],
        env,
    )

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.cells[0].metadata.tags = ["parameters"]
    notebook.metadata.language_info = {"name": "python"}
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(notebook, folder / "in.ipynb")
    words = "-m papermill in.ipynb out.ipynb -k boxed -p limit 5"
    _command([*words.split(), "--start-timeout", str(TIMEOUT_S)], env, folder)

    *_, told, made = nbformat.read(folder / "out.ipynb", as_version=4).cells
    assert told.outputs[0].text == "5 True ['lo']\n"
    assert made.outputs[0].text.startswith("/usr/lib/python3/dist-packages/ipykernel")
    assert (folder / "made").read_text() == "by the notebook"
    assert (folder / "made").stat().st_uid == folder.stat().st_uid
    assert lab.rows("ps", "-a") == []


def _command(words: list[str], env: dict[str, str], folder: Path | None = None) -> None:
    done = subprocess.run(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        cwd=folder,
        env=env,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
