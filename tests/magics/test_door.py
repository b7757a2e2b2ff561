"""The door of the face."""

from __future__ import annotations

import subprocess
import sys

import cellblock
import cellblock_engine
import cellblock_kernel

OF_CELLS = {"CellFailed", "CellInterrupted", "InterpreterLost", "OutputRefused"}


def test_all_is_complete():
    assert len(cellblock.__all__) == len(set(cellblock.__all__))
    own = {"__version__", "load_ipython_extension", "unload_ipython_extension"}
    assert set(cellblock.__all__) == own | OF_CELLS | set(cellblock_engine.__all__)


def test_every_name_is_the_lower_rooms_own():
    for name in set(cellblock.__all__) & set(cellblock_engine.__all__):
        assert getattr(cellblock, name) is getattr(cellblock_engine, name)
    for name in OF_CELLS:
        assert getattr(cellblock, name) is getattr(cellblock_kernel, name)


def test_unknown_names_are_attribute_errors():
    assert not hasattr(cellblock, "Docker")


def test_importing_it_loads_nothing_heavy():
    heavy = ("IPython", "pandas", "ipywidgets", "rich", "urllib3", "argparse", "isal", "jupyter")
    code = (
        "import sys, cellblock; cellblock.__version__; cellblock.Limits; cellblock.CellFailed\n"
        f"print(*(name for name in {heavy} if name in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []


def test_help_loads_no_engine():
    code = (
        "import sys; from cellblock.cli import main; main(['run', '--help'])\n"
        "print([name for name in sys.modules if name in ('cellblock_engine.engine', 'pandas', "
        "'IPython', 'rich', 'urllib3', 'selectors', 'subprocess')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
