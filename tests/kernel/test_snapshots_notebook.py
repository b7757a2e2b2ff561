"""The tutorial on snapshots, executed in a kernel of a frozen environment, as it says."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from cellblock.cli import main
from cellblock_engine import Engine
from support import kernels, tutorials
from support.kernels import cgroups_of
from support.tutorials import text

NOTEBOOK = "snapshots.ipynb"
STUBS = "jedi/third_party/"  # half of all the files, for completion only


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("snapshots")) as made:
        yield made


@pytest.fixture(scope="module")
def reader() -> Iterator[Path]:
    """A folder that is not in /tmp, which commits leave out, nor in a cache."""
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix="cellblock-reader-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def python(reader: Path) -> Path:
    """The Python of a reader who has ipykernel and pip, and little else."""
    place = reader / "venv"
    base = os.path.realpath(sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", place], check=True, timeout=60)
    (packages,) = place.glob("lib/python*/site-packages")
    for name in needed("ipykernel", "pip"):
        for file in importlib.metadata.files(name) or ():
            is_left_out = ".." in file.parts or STUBS in file.as_posix()
            if not is_left_out and file.locate().exists():
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file.locate(), packages / file)
    return place / "bin/python"


def needed(*wanted: str) -> set[str]:
    """Return the names of packages and of all that these require."""
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop().lower()
        if name not in found:
            found.add(name)
            further = map(Requirement, importlib.metadata.requires(name) or ())
            waiting += [
                each.name
                for each in further
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def rows(cell) -> list[list[str]]:
    """Return the cells of a table that is shown as aligned text, without its head."""
    _, *lines = text(cell).splitlines()
    return [re.split(r"\s{3,}", line) for line in lines]


def test_it_is_kept_without_outputs():
    tutorials.assert_kept_without_outputs(NOTEBOOK)


def test_it_shows_what_it_says(site, python):
    notebook = tutorials.read(NOTEBOOK)
    assert main([*tutorials.told(notebook, "freeze"), "--python", str(python)]) == 0
    assert main(tutorials.told(notebook, "kernel install")) == 0

    client = NotebookClient(
        notebook, timeout=60, resources={"metadata": {"path": str(site.folder)}}
    )
    shown = {}
    with client.setup_kernel():
        before = client.km.provisioner._container
        for at, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                client.execute_cell(cell, at)
                shown[cell.id] = cell
        with Engine.open(site.home) as engine:
            (now,) = [info.id for info in engine.containers()]
            steps = engine.history("mine/env:3")
            first = str(engine.image("mine/env:2").id)
        assert now != before
        assert not cgroups_of(before)

    assert "network:     none" in text(shown["info"])
    for verb, package in (("commit-first", "snowflake 1.0"), ("commit-second", "blizzard 2.1")):
        facts = dict(line.split(":", 1) for line in text(shown[verb]).splitlines() if line)
        assert facts["packages"].strip() == f"+{package}"
        assert float(facts["stood still"].split()[0]) < 1
        assert facts["layer"].split()[1] == "KiB"

    newest, second, *below = rows(shown["history"])
    assert newest[-2:] == ["+blizzard 2.1", "blizzard"]
    assert second[-2:] == ["+snowflake 1.0", "snowflake"]
    assert [row[2] for row in below] == [
        "cellblock freeze (packages)",
        "cellblock freeze (interpreter)",
    ]
    assert [step.comment for step in steps][:2] == ["blizzard", "snowflake"]
    assert newest[-3] == steps[0].cells
    sources = text(shown["provenance"])
    assert sources.index("from pathlib import Path…") < sources.index("--no-index snowflake-1.0")
    assert sources.index("--no-index snowflake-1.0") < sources.index("--no-index blizzard-2.1")
    paths = {row[-1].rpartition("/")[2]: row[0] for row in rows(shown["diff"])}
    assert (paths["snowflake.py"], paths["blizzard.py"], paths["site-packages"]) == ("A", "A", "C")

    assert text(shown["loose"]) == "the second package blows hard\n"
    gone = text(shown["checkout"])
    assert gone.startswith("A new kernel begins in a container of mine/env:2: variables are lost")
    assert "since the last commit" in gone
    assert text(shown["after-checkout"]).splitlines() == [
        "the first package falls softly",
        "the second is there: False",
        "the variable is there: False",
        "the scratch file is there: False",
    ]
    assert f"in a container of {first}: variables are lost" in text(shown["undo"])
    assert text(shown["after-undo"]) == "'softly'"
    assert list(site.folder.iterdir()) == []
    site.assert_gone()
