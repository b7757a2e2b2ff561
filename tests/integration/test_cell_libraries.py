"""tqdm and matplotlib, the real ones, in cells of a real ipykernel."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.notebook import Notebook, Outputs


@pytest.fixture(scope="module")
def notebook(base_home: Path) -> Iterator[Notebook]:
    notebook = Notebook(base_home)
    yield notebook
    notebook.close()


def settled(text: str) -> str:
    """What a front end shows of text with carriage returns: each writes over its line."""
    return "\n".join(line.split("\r")[-1] for line in text.split("\n"))


def png_sizes(outputs: Outputs) -> list[tuple[int, int]]:
    """Return width and height of each PNG that was displayed, in pixels."""
    shown = [data for kind, data in outputs.items if kind == "display"]
    images = [base64.b64decode(data["image/png"]) for data in shown]
    assert all(image.startswith(b"\x89PNG\r\n\x1a\n") for image in images)
    return [struct.unpack(">II", image[16:24]) for image in images]


@pytest.mark.parametrize("module", ["tqdm", "tqdm.auto"])
def test_a_tqdm_bar_closes_into_one_line(notebook: Notebook, module: str) -> None:
    outputs = notebook.cell(
        f"from {module} import tqdm\n"
        "total = 0\nfor n in tqdm(range(200_000), desc='adding'):\n    total += n\nprint(total)"
    )
    assert outputs.reply["status"] == "ok", outputs
    assert outputs.text() == "19999900000\n"
    assert {kind for kind, _ in outputs.items} == {"stdout", "stderr"}, "no widget without a kernel"
    text = outputs.text("stderr")
    assert len(text) < 50_000
    (line,) = settled(text).strip("\n").splitlines()
    assert line.startswith("adding: 100%")
    assert "200000/200000" in line


def test_nested_bars_and_many_updates_stay_small(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "from tqdm.auto import trange\n"
        "for _ in trange(3, desc='outer', mininterval=0):\n"
        "    for _ in trange(20_000, desc='inner', mininterval=0, miniters=1, leave=False): pass"
    )
    assert outputs.reply["status"] == "ok", outputs
    assert "outer: 100%" in outputs.text("stderr")
    assert len(outputs.text("stderr")) < 8 << 20


def test_a_figure_shows_without_asking(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import matplotlib.pyplot as plt\n"
        "fig, ax = plt.subplots(figsize=(4, 3), dpi=100)\nax.plot([1, 3, 2])\nax.set_title('t');"
    )
    assert outputs.reply["status"] == "ok", outputs
    ((width, height),) = png_sizes(outputs)
    assert 300 < width <= 420, "trimmed as in a notebook, 400 x 300 at most and its labels"
    assert 230 < height <= 320
    assert outputs.text("stderr") == ""


def test_figures_show_once_and_in_order(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "import matplotlib.pyplot as plt\n"
        "plt.figure(figsize=(2, 2), dpi=100)\nplt.plot([1, 2])\nplt.show()\nprint('between')\n"
        "for side in (3, 5):\n    plt.figure(figsize=(side, side), dpi=100)\n    plt.plot([1, 2])"
    )
    assert outputs.reply["status"] == "ok", outputs
    assert [kind for kind, _ in outputs.items] == ["display", "stdout", "display", "display"]
    for side, (width, height) in zip((2, 3, 5), png_sizes(outputs), strict=True):
        assert 85 * side < width < 100 * side + 25, "trimmed, and padded by 0.1 inch"
        assert 85 * side < height < 100 * side + 25


def test_a_figure_as_the_value_shows_once(notebook: Notebook) -> None:
    outputs = notebook.cell("import matplotlib.pyplot as plt\nfig = plt.figure()\nfig")
    assert len(png_sizes(outputs)) == 1
    assert notebook.run("print(sorted(_.result.bundle))").text() == "['image/png', 'text/plain']\n"


def test_savefig_and_the_inline_magic(notebook: Notebook) -> None:
    outputs = notebook.cell(
        "%matplotlib inline\nimport matplotlib.pyplot as plt, os\n"
        "plt.plot([1, 2]);\nplt.savefig('/tmp/f.png')\nprint(os.path.getsize('/tmp/f.png') > 1000)"
    )
    assert outputs.reply["status"] == "ok", outputs
    assert outputs.text() == "True\n"
    assert len(png_sizes(outputs)) == 1


@pytest.mark.parametrize("module", ["tqdm", "matplotlib"])
def test_an_image_without_them_says_so(notebook: Notebook, base_image: str, module: str) -> None:
    outputs = notebook.cell(f"import {module}", base_image)
    assert outputs.errors == [[f"CellFailed: ModuleNotFoundError: No module named '{module}'"]]
    assert outputs.text("stderr").count("Error") == 1
