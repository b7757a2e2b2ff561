"""A kernel in an image whose user is not root, under papermill, as an ordinary user."""

from __future__ import annotations

import subprocess

import nbformat
import pytest

from support import images
from support.ordinary import OrdinaryUser

CELLS = (
    "limit = 3",
    "import os; print(limit, os.getuid(), os.listdir('/sys/class/net'))",
    "open('made', 'w').write('by the notebook')",
)


@pytest.fixture
def image(rootless_user: OrdinaryUser) -> str:
    """An image with ipykernel, run by its user 1000 unless somebody says otherwise."""
    archive = rootless_user.home / "ipykernel.tar"
    subprocess.run(["tar", "-C", images.kernel_layout(), "-cf", archive, "."], check=True)
    archive.chmod(0o644)
    loaded = rootless_user.run_cellblock("load", "-i", str(archive), timeout_s=200)
    archive.unlink()
    created = rootless_user.run_cellblock("create", loaded.stdout.split()[-1], "true")
    assert created.returncode == 0, loaded.stderr + created.stderr
    container, name = created.stdout.strip(), "ordinary/notebook:1"
    done = rootless_user.run_cellblock("commit", "--change", "USER 1000", container, name)
    assert done.returncode == 0, done.stderr
    assert rootless_user.run_cellblock("rm", container).returncode == 0
    return name


def test_papermill(rootless_user: OrdinaryUser, image: str) -> None:
    words = ("kernel", "install", "--user", "--name", "of-image", image)
    done = rootless_user.run_cellblock(*words, timeout_s=100)
    assert done.returncode == 0, done.stderr

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.cells[0].metadata.tags = ["parameters"]
    notebook.metadata.language_info = {"name": "python"}
    (rootless_user.home / "in.ipynb").write_text(nbformat.writes(notebook))
    script = 'mkdir papers && cd papers && exec "$0" -m papermill ../in.ipynb out.ipynb ' + (
        "-k of-image -p limit 5"
    )
    done = rootless_user.run(["sh", "-c", script, rootless_user.python], timeout_s=100)
    assert done.returncode == 0, done.stderr

    papers = rootless_user.home / "papers"
    *_, told, _ = nbformat.read(papers / "out.ipynb", as_version=4).cells
    assert told.outputs[0].text == "5 0 ['lo']\n"
    assert (papers / "made").stat().st_uid == rootless_user.uid
    assert rootless_user.run_cellblock("ps", "-a", "-q").stdout == ""
