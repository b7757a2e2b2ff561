"""A real docker-registry has no index: its catalogue is searched."""

from __future__ import annotations

import json

import pytest

from cellblock_engine import AccessDenied, Engine
from support import capabilities
from support.layouts import LayoutWriter, small_tar
from support.registry import serving

LOGIN = "anna:password"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A registry for one user only, of many repositories."""
    for program in ("docker-registry", "skopeo", "htpasswd"):
        capabilities.need_program(program)
    directory = tmp_path_factory.mktemp("searched")
    writer = LayoutWriter(directory / "layout")
    writer.image([writer.layer(small_tar(directory / "t.tar", {"f": b"1"}))])
    with serving(directory / "registry", LOGIN) as registry:
        registry.push(writer.directory, "base")
        kept = registry.storage / "docker" / "registry" / "v2" / "repositories"
        for number in range(120):  # what the catalogue lists are folders with layers
            (kept / f"team/tool{number:03}" / "_layers").mkdir(parents=True)
        yield registry


@pytest.fixture(autouse=True)
def docker_config(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def test_its_names_are_found_by_whoever_may_know_them(
    engine: Engine, served, cellblock, monkeypatch
):
    with pytest.raises(AccessDenied, match=f"the catalogue of .* log in to {served.host} first"):
        engine.search(f"{served.host}/tool")
    engine.login(served.host, *LOGIN.split(":"))
    monkeypatch.setattr("cellblock_engine.registry.search._PAGE", 7)
    found = engine.search(f"{served.host}/tool1", limit=100)
    assert [each.name for each in found] == [f"{served.host}/team/tool{n}" for n in range(100, 120)]
    done = cellblock("search", "--json", f"{served.host}/BASE")
    assert done.returncode == 0, done.stderr
    [base] = json.loads(done.stdout)
    assert base["name"] == f"{served.host}/base"
    engine.pull(base["name"])  # what is found is a name to pull by
    done = cellblock("search", f"{served.host}/nothing")
    assert done.stdout.split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]


def test_a_hub_that_is_not_reached_is_one_line(cellblock):
    done = cellblock("search", "localhost:1/python")
    assert done.returncode == 125
    assert done.stderr.startswith("cellblock: registry http://localhost:1 is not available: ")
    assert done.stderr.count("\n") == 1
