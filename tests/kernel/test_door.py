"""The kernel room's door: complete, sorted, and cheap to enter."""

from __future__ import annotations

import subprocess
import sys

import cellblock_kernel


def test_all_is_sorted_and_every_name_is_there():
    assert cellblock_kernel.__all__ == sorted(cellblock_kernel.__all__)
    for name in cellblock_kernel.__all__:
        assert getattr(cellblock_kernel, name) is not None
    assert set(dir(cellblock_kernel)) == set(cellblock_kernel.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error():
    assert not hasattr(cellblock_kernel, "nothing")


def test_entering_imports_nothing_else():
    program = (
        "import sys; before = set(sys.modules); import cellblock_kernel; "
        "print(*sorted(n for n in set(sys.modules) - before if n.split('.')[0] != '__future__'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert [name for name in done.stdout.split() if "cellblock" in name] == ["cellblock_kernel"]
    assert "IPython" not in done.stdout
