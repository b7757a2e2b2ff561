from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from support.relays import rigs


@pytest.fixture
def make_rig():
    # Short: sockets' paths are.
    with tempfile.TemporaryDirectory(prefix="cb-rl-") as directory, rigs(Path(directory)) as make:
        yield make


@pytest.fixture
def rig(make_rig):
    return make_rig()
