"""``--in``, ``--out`` and ``--result`` of ``%%container run`` in a real ipykernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.notebook import Notebook


@pytest.fixture(scope="module")
def notebook(base_home: Path) -> Iterator[Notebook]:
    notebook = Notebook(base_home)
    yield notebook
    notebook.close()


def value(notebook: Notebook, expression: str) -> str:
    return notebook.run(expression).items[0][1]["text/plain"]


def test_variables_go_in_and_come_back(notebook: Notebook) -> None:
    notebook.run(
        "import numpy as np, pandas as pd\n"
        "df = pd.DataFrame({'t': pd.to_datetime(['2026-01-01']), 's': ['x']})\n"
        "n, raw = {'a': [1, (2, None)]}, b'\\0'\n"
        "array = np.arange(6.).reshape(2, 3)"
    )
    outputs = notebook.cell(
        "df2 = df.assign(more=raw[0])\nm = {'was': n, 'sum': array.sum()}\n"
        "array[0] = 7; back = array\n"
        "print(sorted(k for k in {*globals()} - {'In', 'Out'} if k[0] != '_'))",
        "--in df,n --in raw,array --out df2,m --out back",
    )
    assert outputs.reply["status"] == "ok", outputs
    assert outputs.text() == "['array', 'back', 'df', 'df2', 'm', 'n', 'raw']\n"
    assert value(notebook, "m") == "{'was': {'a': [1, (2, None)]}, 'sum': np.float64(15.0)}"
    assert value(notebook, "df2.equals(df.assign(more=0))") == "True"
    assert value(notebook, "back[0].tolist(), array[0].tolist()") == (
        "([7.0, 7.0, 7.0], [0.0, 1.0, 2.0])"
    )


def test_an_image_without_numpy_refuses_an_array_by_name(
    notebook: Notebook, base_image: str
) -> None:
    notebook.run("import numpy as np; array = np.arange(3); word = 'w'")
    outputs = notebook.cell("print('ran')", f"--in array {base_image}")
    assert outputs.errors == [
        [
            "VariableRefused: variable 'array' did not arrive in the container: it is a NumPy "
            "array, and there is no numpy to hold it"
        ]
    ]
    assert outputs.text() == ""
    outputs = notebook.cell("word = [word] * 2", f"--in word --out word {base_image}")
    assert value(notebook, "word") == "['w', 'w']"


def test_nothing_is_bound_when_the_cell_failed(notebook: Notebook) -> None:
    notebook.run("kept = 'old'")
    outputs = notebook.cell("kept = 'new'\n1 / 0", "--out kept")
    assert outputs.reply["ename"] == "CellFailed"
    assert value(notebook, "kept") == "'old'"


def test_a_missing_variable_is_named_and_nothing_is_bound(notebook: Notebook) -> None:
    notebook.run("kept = 'old'")
    outputs = notebook.cell("kept = 'new'", "--out kept,absent")
    assert outputs.errors == [
        [
            "VariableRefused: the cell ended well without a variable 'absent'; nothing was "
            "brought back"
        ]
    ]
    assert value(notebook, "kept") == "'old'"
    outputs = notebook.cell("1", "--in nowhere")
    assert outputs.errors[0][0].startswith("InvalidInput: --in names nowhere, which this notebook")
    assert notebook.cell("1", "--in 2x").reply["ename"] == "InvalidInput"


def test_what_cannot_travel_is_one_line(notebook: Notebook) -> None:
    notebook.run("opened = open('/dev/null')")
    ((line,),) = notebook.cell("1", "--in opened").errors
    assert line.startswith(
        "VariableRefused: variable 'opened' cannot travel into a container: it is a "
        "_io.TextIOWrapper; what can: None, booleans, numbers"
    )
    ((line,),) = notebook.cell("class C: pass\nc = C()", "--out c").errors
    assert line.startswith(
        "VariableRefused: variable 'c' cannot travel out of the container: it is a __main__.C"
    )


@pytest.mark.attack(64)
def test_a_hostile_cell_gets_nothing_unpickled(notebook: Notebook, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    hostile = (
        "import os, pickle, json, struct\n"
        "class Canary:\n"
        f"    def __reduce__(self): return (os.system, ('touch {canary}',))\n"
        "song = pickle.dumps(Canary())\n"
        "def frame(header, payload):\n"
        "    head = json.dumps(header).encode()\n"
        "    os.write(4, struct.pack('!II', len(head), len(payload)) + head + payload)\n"
        "frame({'kind': 'variable', 'name': 'x', 'size': len(song)}, song)\n"
    )
    ((line,),) = notebook.cell(hostile, "--out x").errors
    assert line.startswith("VariableRefused: variable 'x' arrived broken: ")
    ((line,),) = notebook.cell(hostile).errors
    assert line.startswith("OutputRefused: ")
    assert not canary.exists()
    assert notebook.run("1").reply["status"] == "ok"


def test_large_variables_travel(notebook: Notebook) -> None:
    notebook.run("import numpy as np; big = np.zeros(10_000_000)")
    outputs = notebook.cell("big += 1", "--in big --out big")
    assert outputs.reply["status"] == "ok", outputs
    assert value(notebook, "big.shape, big.sum().item()") == "((10000000,), 10000000.0)"


def test_the_result_is_bound(notebook: Notebook) -> None:
    notebook.cell("6 * 7", "--result how")
    assert value(notebook, "how.result.bundle") == "{'text/plain': '42'}"
    assert value(notebook, "0 < how.duration_s < 60, len(how.container_id) > 10") == "(True, True)"
