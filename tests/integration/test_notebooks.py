"""Notebooks run from the command line in a kernel that ``cellblock kernel install`` made."""

from __future__ import annotations

import os
import subprocess
import sys

import nbformat
import pytest

from cellblock.cli import main
from support import kernels

PACKAGE = "toolz"  # small, pure Python, and no dependency of cellblock's
CELLS = (
    "limit = 3",
    "import matplotlib.pyplot as plt\nplt.plot(range(limit));",
    "import ipywidgets\nipywidgets.IntSlider(value=limit)",
    "open('written', 'w').write(open('given').read().upper())\n"
    "import os; print(os.uname().nodename)",
)


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("notebooks")) as made:
        assert main("kernel install host --user --name boxed".split()) == 0
        assert main("kernel install host --user --name online --network host".split()) == 0
        yield made
        made.assert_gone()


def notebook_of(*cells):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.cells[0].metadata.tags = ["parameters"]
    return made


def execute(site, name, words):
    """Run a command in the site's folder, and return the notebook that it left."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=site.folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(site.folder / name, as_version=4)


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.outputs]


def assert_it_did_everything(site, notebook):
    outputs = outputs_of(notebook)
    kinds = {kind for output in outputs for kind in output.get("data", ())}
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= kinds
    (host,) = [output.text.strip() for output in outputs if output.output_type == "stream"]
    assert host != os.uname().nodename
    written = site.folder / "written"
    assert written.read_text() == "GIVEN"
    written.unlink()
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    (slider,) = [each for each in states.values() if each["model_name"] == "IntSliderModel"]
    return slider["state"]["value"]


def test_papermill_with_a_parameter(site):
    notebook = notebook_of(*CELLS)
    notebook.metadata.language_info = {"name": "python"}  # papermill writes parameters in it
    nbformat.write(notebook, site.folder / "in.ipynb")
    (site.folder / "given").write_text("given")
    words = "papermill in.ipynb out.ipynb -k boxed -p limit 5".split()
    assert assert_it_did_everything(site, execute(site, "out.ipynb", words)) == 5


def test_jupyter_execute(site):
    nbformat.write(notebook_of(*CELLS), site.folder / "once.ipynb")
    (site.folder / "given").write_text("given")
    words = "jupyter execute --inplace --kernel_name=boxed once.ipynb".split()
    assert assert_it_did_everything(site, execute(site, "once.ipynb", words)) == 3


def test_a_package_is_installed_in_the_container_only(site, tmp_path):
    need_package_registry(tmp_path)
    code = f"%pip install --quiet {PACKAGE}\nimport {PACKAGE}; print({PACKAGE}.__file__)"
    nbformat.write(notebook_of(code), site.folder / "pip.ipynb")
    words = "jupyter execute --inplace --kernel_name=online pip.ipynb".split()
    (place,) = [
        line
        for output in outputs_of(execute(site, "pip.ipynb", words))
        for line in output.get("text", "").splitlines()
        if line.endswith("__init__.py")
    ]
    assert not os.path.exists(place)


def need_package_registry(folder):
    """Skip unless pip finds the package with the settings that a container has: none."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    words = f"pip download --quiet --no-deps --retries=0 --timeout=10 --dest={folder} {PACKAGE}"
    done = subprocess.run(
        [sys.executable, "-m", *words.split()],
        env={**env, "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        pytest.skip("needs a package registry that pip reaches")
