"""The tutorial on kernels, executed in a kernel that is installed as it says."""

from __future__ import annotations

import os
import shutil

import pytest
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

from cellblock.cli import main
from support import capabilities, kernels, tutorials
from support.tutorials import text

NOTEBOOK = "kernels.ipynb"


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    capabilities.need_memory_cgroup()
    with kernels.site(tmp_path_factory.mktemp("tutorial")) as made:
        yield made


def test_it_is_kept_without_outputs():
    tutorials.assert_kept_without_outputs(NOTEBOOK)


def test_it_shows_what_it_says(site, monkeypatch):
    monkeypatch.setenv("JUPYTER_TOKEN", "of-the-server")
    (site.folder.parent / "beside").touch()
    shutil.copy(tutorials.NOTEBOOKS / NOTEBOOK, site.folder)
    notebook = tutorials.read(NOTEBOOK)
    assert main(tutorials.told(notebook, "kernel install")) == 0

    client = NotebookClient(
        notebook, timeout=60, resources={"metadata": {"path": str(site.folder)}}
    )
    cells = [(at, cell) for at, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    *shown, (last, tidying) = cells
    with client.setup_kernel():
        for at, cell in shown:
            client.execute_cell(cell, at)
        isolated, network, environment, greedy, threads, limits, files, visit = (
            text(cell) for _, cell in shown
        )
        assert os.uname().nodename not in isolated
        assert int(isolated.split("outside: ")[1].split("'")[3]) > 65535
        assert "networks: ['lo']" in isolated
        assert "homes: []" in isolated
        assert "unreachable" in network
        assert "'PATH'" in environment
        assert "TOKEN" not in environment
        assert greedy == "ended by signal 9\n"
        assert threads.startswith("can't start new thread after ")
        assert 50 < int(threads.split()[-1]) < 128
        assert limits.split()[:3] == ["memory:", "768", "MiB"]
        assert limits.split()[-1] == "256"
        assert files == "here: True\nbeside it: []\n"
        made = site.folder / "made-in-the-kernel.txt"
        assert made.read_text() == "written inside, kept outside\n"
        assert made.stat().st_uid == os.getuid()
        assert visit == "visit 1\n"

        client.execute_cell(tidying, last)
        assert not made.exists()

        run_sync(client.km.restart_kernel)()
        run_sync(client.kc.wait_for_ready)(timeout=kernels.ANSWER_S)
        for at, cell in (shown[0], shown[-1]):
            client.execute_cell(cell, at)
        assert text(shown[-1][1]) == "visit 2\n"
    site.assert_gone()
