"""Directories of one user, whatever the umask and whoever came first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cellblock_engine.errors import StartFailed
from cellblock_engine.layout import Layout
from cellblock_engine.private import make_private, make_runtime_directory
from cellblock_engine.removal import Removal
from cellblock_engine.store import Store
from cellblock_engine.store.containers import ContainerConfig, Containers


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _any_umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def config(identifier: str, name: str) -> ContainerConfig:
    return ContainerConfig(
        id=identifier,
        name=name,
        image="host",
        image_id=None,
        layers=(),
        argv=("true",),
        env=(),
        workdir="/",
        user="",
        hostname="h",
        network="none",
        memory_bytes=None,
        cpus=None,
        pids=None,
        timeout_s=None,
        stop_signal=15,
        labels={},
        created_at=0.0,
        removal=Removal.NEVER,
    )


@pytest.mark.usefixtures("_any_umask")
@pytest.mark.attack(65)
def test_a_store_is_its_owners_alone_whatever_the_umask(tmp_path):
    layout = Layout(tmp_path / "a" / "b" / "store", tmp_path / "run")
    containers = Containers(layout)
    identifier, name = containers.reserve(None)
    directory = containers.create(config(identifier, name), [])
    with Store(layout).referencing():
        pass
    assert {mode(path) for path in (layout.home, layout.names, layout.containers, directory)} == {
        0o700
    }
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o755


@pytest.mark.usefixtures("_any_umask")
@pytest.mark.attack(65)
def test_of_the_runtime_directories_the_stores_own_is_private(tmp_path):
    make_runtime_directory(tmp_path / "cellblock" / "0123")
    assert mode(tmp_path / "cellblock") == 0o755
    assert mode(tmp_path / "cellblock" / "0123") == 0o700


def test_existing_directories_are_left_as_they_are(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o750)
    make_private(tmp_path / "there")
    assert mode(tmp_path / "there") == 0o750
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_private(tmp_path / "file")


@pytest.mark.parametrize(
    ("of_parent", "of_own", "accepted"),
    [
        (0o755, 0o700, True),
        (0o1777, 0o700, True),
        (0o777, 0o700, False),
        (0o775, 0o700, False),
        (0o755, 0o750, False),
        (0o755, 0o777, False),
    ],
)
def test_runtime_directories_that_others_can_change_are_refused(
    tmp_path, of_parent, of_own, accepted
):
    own = tmp_path / "cellblock" / "0123"
    own.mkdir(parents=True)
    own.chmod(of_own)
    own.parent.chmod(of_parent)
    if accepted:
        make_runtime_directory(own)
    else:
        with pytest.raises(StartFailed, match="set its owner and mode 07"):
            make_runtime_directory(own)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("whose", ["cellblock", "cellblock/0123"])
def test_a_runtime_directory_of_another_user_is_refused(tmp_path, whose):
    own = tmp_path / "cellblock" / "0123"
    make_runtime_directory(own)
    os.chown(tmp_path / whose, 54321, 54321)
    with pytest.raises(StartFailed, match=whose):
        make_runtime_directory(own)


def test_a_runtime_directory_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cellblock").mkdir(mode=0o755)
    (tmp_path / "cellblock" / "0123").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartFailed, match="not private"):
        make_runtime_directory(tmp_path / "cellblock" / "0123")
