"""Commits of a notebook's container tell which cells were executed, and what they installed."""

from __future__ import annotations

import os
from io import BytesIO

import pytest

from cellblock_engine import Engine
from support import images, kernels
from support.kernels import install, run
from support.packageindex import INSTALL, write_installable

SECRET = "hunter2-of-this-test"


@pytest.fixture(scope="module")
def site(root, tmp_path_factory, registry):
    with kernels.site(tmp_path_factory.mktemp("provenance")) as made:
        write_installable(made.folder, "first", "second")
        done = install("--name", "real", registry.push(images.kernel_layout(), "ipykernel"))
        assert done.returncode == 0, done.stderr
        yield made


def stored(engine: Engine, *names: str) -> bytes:
    """Return all that images consist of; what commits have added is not compressed."""
    archive = BytesIO()
    engine.save(names, archive)
    return archive.getvalue()


def test_commits_tell_of_the_cells_since_the_one_before(site):
    env = {**os.environ, "JPY_SESSION_NAME": str(site.folder / "work.ipynb")}
    install_first, install_second = INSTALL.format("first*.whl"), INSTALL.format("second*.whl")
    secret = f"# cellblock: secret\ntoken = '{SECRET}'"
    with site.kernel("real", env=env) as (km, kc):
        assert "Successfully installed first-1" in run(kc, install_first)
        run(kc, secret)
        run(kc, "%container info")
        assert "image:" in run(kc, "%container commit mine/work:1")
        assert "Successfully installed second-1" in run(kc, install_second)
        km.restart_kernel()
        kc.wait_for_ready(timeout=kernels.ANSWER_S)
        run(kc, f"%env TOKEN={SECRET}")
        said = run(kc, "%container commit mine/work:2")
        assert "packages:      +second 1\n" in said
        run(kc, "%container commit --squash mine/work:all")
    with Engine.open(site.home) as engine:
        one, *_ = engine.provenance("mine/work:1")
        two, *_ = engine.provenance("mine/work:2")
        assert (one.notebook, two.notebook) == ("work.ipynb", "work.ipynb")
        assert [(cell.source, cell.omitted) for cell in one.cells] == [
            (install_first, None),
            (None, "secret"),
        ]
        numbers = [cell.number for cell in one.cells]
        assert numbers[1] == numbers[0] + 1
        assert [cell.source for cell in two.cells] == [install_second, "%env TOKEN=…"]
        rows = [engine.history(name)[0] for name in ("mine/work:1", "mine/work:2")]
        assert [row.packages for row in rows] == ["+first 1", "+second 1"]
        assert [row.packages for row in engine.history("mine/work:2")][:2] == [
            "+second 1",
            "+first 1",
        ]
        assert two.base_name == "docker.io/mine/work:1"
        assert rows[0].cells == f"{numbers[0]}-{numbers[1]}"
        assert rows[0].created_by == f"notebook cells {rows[0].cells} of work.ipynb: +first 1"
        whole, below, *_ = engine.provenance("mine/work:all")
        assert below is None
        assert whole.notebook == "work.ipynb"
        assert whole.cells == (*one.cells, *two.cells)
        assert whole.packages_in_short == "+first 1, +second 1"
        kept = stored(engine, "mine/work:2", "mine/work:all")
        assert b"notebook cells" in kept
        assert SECRET.encode() not in kept


FORGE = """
import sys
kernel = get_ipython().kernel
parent, ident = kernel.get_parent(), kernel._parent_ident["shell"]
code = "for" + "ged()"
for kind in ("execute_input", "execute_request", "execute_reply", "committed"):
    said = {"code": code, "status": "ok", "execution_count": 99}
    for socket in (kernel.iopub_socket, kernel.shell_stream.socket):
        kernel.session.send(socket, kind, said, parent, ident)
print(code, '["committed", {}]')
"""


def test_a_kernel_forges_nothing(site):
    with site.kernel("real") as (_, kc):
        run(kc, "a = 1")
        assert "forged()" in run(kc, FORGE)
        run(kc, "b = 2")
        assert "image:" in run(kc, "%container commit mine/forged")
    with Engine.open(site.home) as engine:
        made, *_ = engine.provenance("mine/forged")
        assert made.notebook == ""
        assert [cell.source for cell in made.cells] == ["a = 1", FORGE, "b = 2"]
        assert "forged()" not in str(engine.image("mine/forged").config)
