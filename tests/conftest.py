"""Fixtures that every room's tests may ask for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from support import alone, attacks, capabilities, docker, environment, images, registry
from support.ordinary import OrdinaryUser
from support.ordinary import ordinary_user as make_ordinary_user
from support.ordinary import subordinate_user as make_subordinate_user

if TYPE_CHECKING:
    from cellblock_engine import Engine
    from support.docker import Docker
    from support.registry import Registry

hypothesis.settings.register_profile(
    "fuzz", max_examples=20_000, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
# Its own deadline is of wall-clock time, which a busy machine does not keep.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

Cellblock = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def _nobodys_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests: no config file and no credentials of theirs play a part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLBLOCK_CONFIG", os.devnull)
        patch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker-config")))
        yield


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say in the report what the tests ran on."""
    environment.note(session.config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note which line of the list of attacks a test proves."""
    attacks.note(items)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the time limit of a test begins
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let a test that is marked for it run alone."""
    with alone.together(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session")
def base_tar() -> Path:
    """The root file system of this distribution with python3, as a tar archive."""
    return images.base_tar()


@pytest.fixture(scope="session")
def base_layout() -> Path:
    """An OCI layout whose tag ``latest`` is the same, as one gzip layer."""
    return images.base_layout()


@pytest.fixture(scope="session")
def layered_layout() -> Path:
    """An OCI layout of five layers with whiteouts and opaque directories, made by umoci."""
    capabilities.need_program("umoci")
    return images.layered_layout()


@pytest.fixture(scope="session", name="registry")
def _registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A real docker-registry on a free loopback port."""
    capabilities.need_program("docker-registry")
    capabilities.need_program("skopeo")
    with registry.serving(tmp_path_factory.mktemp("registry")) as served:
        yield served


@pytest.fixture(scope="session", name="docker")
def _docker(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A Docker daemon of the session's own, without a bridge; it has no image at first."""
    capabilities.need_program("dockerd")
    with docker.serving(tmp_path_factory.mktemp("docker") / "d") as served:
        yield served


@pytest.fixture(scope="session")
def base_image(registry: Registry, base_layout: Path) -> str:
    """The base image's reference in the registry."""
    return registry.push(base_layout, "base")


@pytest.fixture(scope="session")
def root() -> None:
    """Skip what needs the capabilities of the host's root user."""
    capabilities.need_capability(capabilities.CAP_SYS_ADMIN, "CAP_SYS_ADMIN")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty store of its own."""
    from cellblock_engine import Engine

    home = tmp_path / "store"
    with Engine.open(home) as opened:
        yield opened
    _end(home)


@pytest.fixture(scope="session")
def base_home(
    root: None, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A store that has the base image, shared by the session's tests."""
    from cellblock_engine import Engine

    home = tmp_path_factory.mktemp("cellblock") / "store"
    with Engine.open(home) as opened:
        opened.pull(base_image)
    yield home
    _end(home)


@pytest.fixture
def base_engine(base_home: Path) -> Iterator[Engine]:
    """An engine whose store has the base image; the test's containers are removed after it."""
    from cellblock_engine import Engine

    with Engine.open(base_home) as opened:
        yield opened
        _remove_all(opened)


@pytest.fixture
def committing_engine(base_engine: Engine, base_image: str) -> Iterator[Engine]:
    """The engine with the base image; other images are removed after the test."""
    kept = base_engine.image(base_image)
    yield base_engine
    for image in base_engine.images():
        if image.id != kept.id:
            base_engine.remove_image(str(image.id), force=True)


@pytest.fixture
def cellblock(base_home: Path) -> Cellblock:
    """Run the ``cellblock`` command on the store that has the base image."""

    def run(
        *argv: str, home: Path = base_home, stdin: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cellblock", *argv],
            input=stdin or "",
            capture_output=True,
            check=False,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "CELLBLOCK_HOME": str(home)},
        )

    return run


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[OrdinaryUser]:
    """A user without privileges who has cellblock installed."""
    capabilities.need_user_namespaces()
    with make_ordinary_user() as user:
        yield user


@pytest.fixture(scope="session")
def subordinate_user() -> Iterator[OrdinaryUser]:
    """A user without privileges who has subordinate ids."""
    capabilities.need_user_namespaces()
    with make_subordinate_user() as user:
        yield user


@pytest.fixture(scope="session", params=["single id", "subordinate ids"])
def rootless_user(request: pytest.FixtureRequest) -> OrdinaryUser:
    """A user without privileges: one who has no subordinate ids, and one who has."""
    if request.param == "subordinate ids":
        user: OrdinaryUser = request.getfixturevalue("subordinate_user")
        return user
    user = request.getfixturevalue("ordinary_user")
    if user.has_subordinate_ids:
        pytest.skip("needs a user without subordinate ids")
    return user


def _remove_all(engine: Engine) -> None:
    from cellblock_engine import ContainerNotFound

    for container in engine.containers():
        with suppress(ContainerNotFound):  # it was removing itself
            engine.container(container.id).remove(force=True)


def _end(home: Path) -> None:
    """Remove the store's containers, and see its spawner leave, whoever started it."""
    from cellblock_engine import Engine
    from cellblock_engine.layout import Layout
    from cellblock_engine.runtime import launcher
    from support import leaks

    _remove_all(Engine.open(home))
    layout = Layout.default(home)
    launcher.dismiss_all(layout)
    leaks.quiet(layout.home, layout.run, processes=0)
    shutil.rmtree(layout.run, ignore_errors=True)
