"""An image's tree as umoci makes it, beside the one that a stack of our layers shows."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support import capabilities
from support.treelist import differences, tree


def assert_same_tree(image: str, layers: Sequence[Path], scratch: Path) -> set[bytes]:
    """Assert that ``image`` (``LAYOUT:TAG``) is the tree that ``layers``, bottom first, show.

    Returns its names.
    """
    capabilities.need_program("umoci")
    # ext4 passes slowly over inodes freed minutes ago, as by the test before: go elsewhere.
    subprocess.run(["chattr", "+T", scratch], check=False, capture_output=True)
    theirs, merged = scratch / "umoci", scratch / "merged"
    subprocess.run(["umoci", "raw", "unpack", "--image", image, theirs], check=True, timeout=120)
    merged.mkdir()
    options = f"ro,userxattr,lowerdir={':'.join(map(str, reversed(layers)))}"
    subprocess.run(["mount", "-t", "overlay", "none", merged, "-o", options], check=True)
    try:
        ours = tree(merged)
    finally:
        subprocess.run(["umount", merged], check=True)
    expected = tree(theirs)
    shutil.rmtree(theirs)
    assert len(expected) > 5000
    assert differences(ours, expected) == []
    return set(ours)
