"""A store of whoever runs the tests, with an image from a real registry.

In the machine that is root, a user with subordinate ids, or one with neither these nor control
groups, and what must work as whom is known. Elsewhere it is found out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cellblock_engine import Engine
from support import aptrepository, capabilities, images
from support.lab import USER, Lab
from support.registry import Registry

LIMITED = {"root": True, "subids": True, "single": False}


@pytest.fixture(scope="session")
def lab(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Pull Debian with Python, apt and ipykernel; every container goes at the end."""
    if os.geteuid():
        capabilities.need_user_namespaces()
    home = tmp_path_factory.mktemp("lab") / "store"
    lab = Lab(home, registry.push(images.kernel_layout(), "lab"), registry)
    lab.said("pull", lab.image)
    yield lab
    with Engine.open(home) as engine:
        for container in engine.containers():
            engine.container(container.id).remove(force=True)


@pytest.fixture(scope="session")
def repository() -> Iterator[str]:
    """The line for apt's sources of a repository on the loopback."""
    with aptrepository.serving() as line:
        yield line


@pytest.fixture(scope="session")
def limits_are_enforced(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether memory, processors and processes can be limited; in the machine it must be so."""
    with Engine.open(tmp_path_factory.mktemp("asked") / "store") as engine:
        missing = engine.info().missing_limits
    enforced = not {"memory", "cpus", "pids"} & set(missing)
    if USER:
        assert enforced == LIMITED[USER], missing
    return enforced


@pytest.fixture
def enforced_limits(limits_are_enforced: bool) -> None:
    """Skip where limits cannot be enforced."""
    if not limits_are_enforced:
        pytest.skip("needs control groups that may be written to")


@pytest.fixture
def no_limits(limits_are_enforced: bool) -> None:
    """Skip where limits can be enforced."""
    if limits_are_enforced:
        pytest.skip("needs a user without control groups")
