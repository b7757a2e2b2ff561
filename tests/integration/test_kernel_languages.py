"""The other kernels of an image: R without any Python, bash, and interrupts by message."""

from __future__ import annotations

import subprocess
import sys

import nbformat
import pytest

from cellblock.cli import main
from support import capabilities, images, kernels
from support.kernels import install, installed, interrupted, run

pytestmark = pytest.mark.timeout(900)  # the images are made for the first test that asks


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("languages")) as made:
        yield made
        made.assert_gone()


USED = "%container stats"


def assert_usage(text):
    """A table of one container, which is the kernel's own."""
    names, row = text.splitlines()
    assert names.split()[:2] == ["CONTAINER", "ID"]
    assert "MiB" in row


def papermill(site, kernel, language, *cells, words=()):
    """Run a notebook whose first cell has parameters; return what each of its cells printed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[0].metadata.tags = ["parameters"]
    notebook.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": language}
    notebook.metadata.language_info = {"name": language}
    nbformat.write(notebook, site.folder / "in.ipynb")
    argv = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "-k", kernel, *words]
    done = subprocess.run(
        argv, cwd=site.folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return [
        "".join(
            output.get("text", "") or output.get("data", {}).get("text/plain", "")
            for output in cell.outputs
        )
        for cell in nbformat.read(site.folder / "out.ipynb", as_version=4).cells
    ]


def test_r_without_python(site, registry, capsys):
    image = registry.push(images.r_layout(), "r")
    (name,) = specs = installed(install(image))
    assert name == f"cellblock-{image.replace(':', '-').replace('/', '-')}-ir"
    assert (specs[name]["language"], specs[name]["metadata"]["debugger"]) == ("R", False)
    assert main(["kernel", "list"]) == 0
    assert any(name in line and " R " in line for line in capsys.readouterr().out.splitlines())
    cells = (
        "limit <- 3",
        USED,
        "writeLines('from R', 'made'); cat(limit, Sys.info()[['nodename']])",
    )
    *_, used, said = papermill(site, name, "R", *cells, words=("-p", "limit", "5"))
    assert said.split()[0] == "5"
    assert_usage(used)
    assert (site.folder / "made").read_text() == "from R\n"
    with site.kernel(name) as (km, kc):
        run(kc, "cat(1)")
        interrupted(km, kc, "Sys.sleep(20)")
        assert run(kc, "cat('alive')") == "alive"
        km.restart_kernel()
        kc.wait_for_ready(timeout=kernels.ANSWER_S)
        assert run(kc, "cat(exists('limit'))") == "FALSE"
    site.assert_gone()


@pytest.fixture(scope="module")
def specs(site, registry):
    """The kernelspecs of an image with three kernels."""
    capabilities.need_package_index()  # bash_kernel comes from there
    return installed(install("--name", "lab", registry.push(images.bash_layout(), "bash")))


def test_all_kernels_of_an_image(specs):
    assert {name: spec["language"] for name, spec in specs.items()} == {
        "lab": "python",
        "lab-bash": "bash",
        "lab-messages": "python",
    }
    modes = {name: spec["interrupt_mode"] for name, spec in specs.items()}
    assert modes == {"lab": "signal", "lab-bash": "signal", "lab-messages": "message"}
    assert "--env=PS1=$" in specs["lab-bash"]["argv"]


def test_bash_by_papermill_and_interrupted(site, specs):
    cells = ("true", USED, "hostname; echo made > made; type cd")
    *_, used, said = papermill(site, "lab-bash", "bash", *cells)
    assert_usage(used)
    assert "cd is a shell builtin" in said
    assert (site.folder / "made").read_text() == "made\n"
    with site.kernel("lab-bash") as (km, kc):
        assert run(kc, "x=1; echo $x") == "1\n"
        interrupted(km, kc, "sleep 20")
        assert run(kc, "echo $x") == "1\n"


def test_bash_by_nbclient(site, specs):
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(cell) for cell in ("x=2", "echo $x")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, kernel_name="lab-bash", timeout=60, resources={"metadata": {"path": site.folder}}
    ).execute()
    assert notebook.cells[-1].outputs[0].text == "2\n"


def test_an_interrupt_by_message(site, specs):
    with site.kernel("lab-messages") as (km, kc):
        assert km.kernel_spec.interrupt_mode == "message"
        assert "KeyboardInterrupt" in interrupted(km, kc, "import time; time.sleep(20)")
        assert run(kc, "print('alive')") == "alive\n"
