"""The packages of real images and containers, against what their own tools say."""

from __future__ import annotations

import json

import pytest

from cellblock_engine import (
    CommitRequest,
    Engine,
    ExecutedCell,
    ImageNotFound,
    Provenance,
    RunRequest,
)

pytestmark = pytest.mark.usefixtures("root")

ASK_DPKG = r"dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n'"
ASK_PYTHON = """
import importlib.metadata, json, re
print(json.dumps([[re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version]
                  for found in importlib.metadata.distributions()]))
"""
SITE = "/usr/local/lib/python3/dist-packages"
INSTALL = f"""
mkdir -p {SITE}/foo-1.dist-info
printf 'Metadata-Version: 2.1\\nName: Foo\\nVersion: 1\\n' > {SITE}/foo-1.dist-info/METADATA
dpkg --remove --force-all sed >/dev/null 2>&1
"""


def asked(engine: Engine, image: str, *argv: str) -> str:
    result = engine.run(image, argv)
    assert result.exit_code == 0, result.stderr
    return result.stdout.decode()


def test_an_image_has_what_its_own_tools_list(base_engine: Engine, base_image: str):
    found = base_engine.packages(base_image)
    lines = asked(base_engine, base_image, "sh", "-c", ASK_DPKG).splitlines()
    told = {tuple(line.split()[:2]) for line in lines if line.endswith(" installed")}
    assert len(told) > 50
    assert {(p.name, p.version) for p in found if p.kind == "debian"} == told
    listed = json.loads(asked(base_engine, base_image, "python3", "-c", ASK_PYTHON))
    assert {(p.name, p.version) for p in found if p.kind == "python"} == set(map(tuple, listed))
    with pytest.raises(ImageNotFound):
        base_engine.packages("nowhere/to/be:found")


def test_a_container_has_its_own_and_an_image_of_it_tells_the_difference(
    base_engine: Engine, base_image: str
):
    before = set(base_engine.packages(base_image))
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60"), name="box"))
    assert container.exec(["sh", "-c", INSTALL]).exit_code == 0
    after = set(base_engine.container_packages("box"))
    assert {package.name for package in after - before} == {"foo"}
    assert {package.name for package in before - after} == {"sed"}
    base_engine.commit("box", "mine/packages")
    changes = base_engine.package_changes(base_image, "mine/packages")
    words = [change.short for change in changes]
    assert words[1] == "+foo 1"
    assert words[0].startswith("-sed ")
    assert base_engine.package_changes("mine/packages", "mine/packages") == ()


def test_the_host_image_has_this_machines(engine: Engine):
    engine.create(RunRequest(image="host", argv=("true",), name="box"))
    found = {package.name: package for package in engine.container_packages("box")}
    assert found["pandas"].place.endswith("/site-packages")


def test_a_commit_tells_where_it_comes_from(base_engine: Engine, base_image: str):
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60"), name="box"))
    assert container.exec(["sh", "-c", INSTALL]).exit_code == 0
    cells = (ExecutedCell(2, "!pip install foo"), ExecutedCell(3, None, "secret"))
    told = Provenance("a.ipynb", cells, base_name="a lie", engine="9", packages=())
    base = base_engine.image(base_image)
    base_engine.commit("box", "mine/told:1", CommitRequest(provenance=told))
    newest, *older = base_engine.provenance("mine/told:1")
    assert set(older) <= {None}
    assert newest is not None
    assert (newest.notebook, newest.cells) == ("a.ipynb", cells)
    assert (newest.base_digest, newest.base_name) == (base.manifest, base_image)
    assert newest.engine not in ("", "9")
    assert newest.packages == base_engine.package_changes(base_image, "mine/told:1")
    row, *rest = base_engine.history("mine/told:1")
    assert (row.cells, row.packages) == ("2-3", newest.packages_in_short)
    assert row.created_by == f"notebook cells 2-3 of a.ipynb: {row.packages}"
    assert row.packages is not None
    assert row.packages.endswith(", +foo 1")
    assert {(step.cells, step.packages) for step in rest} <= {(None, None)}
    # What is made of it has its labels, and its containers have none of these.
    base_engine.run("mine/told:1", ["touch", "/new"], name="next", remove=False)
    assert not [name for name in base_engine.container("next").inspect().labels if "prov" in name]
    made = base_engine.commit("next", "mine/told:2")
    top, below, *_ = base_engine.provenance("mine/told:2")
    assert below == newest
    assert top is not None
    assert (top.cells, top.packages, top.notebook) == ((), (), "")
    assert top.base_name == "docker.io/mine/told:1"
    assert made.config.labels["org.opencontainers.image.base.digest"] == str(top.base_digest)
    assert base_engine.history("mine/told:2")[0].created_by == "touch /new"
