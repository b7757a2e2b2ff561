"""An image's tree as umoci makes it, beside the one that a stack of our layers shows."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support import capabilities
from support.treelist import differences, stacked, tree


def assert_same_tree(image: str, layers: Sequence[Path], scratch: Path) -> set[bytes]:
    """Assert that ``image`` (``LAYOUT:TAG``) is the tree that ``layers``, bottom first, show.

    Returns its names.
    """
    capabilities.need_program("umoci")
    # ext4 passes slowly over inodes freed minutes ago, as by the test before: go elsewhere.
    subprocess.run(["chattr", "+T", scratch], check=False, capture_output=True)
    theirs = scratch / "umoci"
    subprocess.run(["umoci", "raw", "unpack", "--image", image, theirs], check=True, timeout=120)
    ours = stacked(layers, scratch / "merged")
    expected = tree(theirs)
    shutil.rmtree(theirs)
    assert len(expected) > 5000
    assert differences(ours, expected) == []
    return set(ours)
