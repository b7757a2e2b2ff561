"""How containers of a committed image are run, where a commit was told so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from cellblock_engine import CommitRequest, Engine, InvalidInput, RunRequest
from cellblock_engine.layout import Layout

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def box(base_engine: Engine, base_image: str) -> Iterator[Engine]:
    """The engine with a container that has changed nothing, ``box``; its images go at the end."""
    kept = {image.id for image in base_engine.images()}
    base_engine.create(RunRequest(image=base_image, argv=("true",), name="box"))
    yield base_engine
    for image in base_engine.images():
        if image.id not in kept:
            base_engine.remove_image(str(image.id), force=True)


def test_an_image_that_is_run_another_way(box: Engine, base_image: str):
    changes = (
        "ENV GREETING=hi PATH=/opt/bin:$PATH",
        'ENTRYPOINT ["sh", "-c"]',
        'CMD ["echo $GREETING $PATH; pwd; id -u"]',
        "WORKDIR /var",
        "WORKDIR lib",
        "USER 1000",
        'LABEL org.example.note="some words"',
        "EXPOSE 8888",
        "STOPSIGNAL SIGINT",
    )
    image = box.commit("box", "mine/changed", CommitRequest(changes=changes))
    base = box.image(base_image)
    assert (image.added, image.layers) == (None, base.layers)
    assert image.config.labels["org.example.note"] == "some words"
    assert image.config.exposed_ports == ("8888/tcp",)
    raw = (Layout.default(box.home).blobs / image.id.hex).read_bytes()
    assert json.loads(raw)["history"][-1]["empty_layer"] is True
    path = dict(entry.split("=", 1) for entry in base.config.env)["PATH"]
    ran = box.run("mine/changed").check()
    assert ran.stdout.decode() == f"hi /opt/bin:{path}\n/var/lib\n1000\n"


@pytest.mark.parametrize("change", ["RUN true", "ENV a=${PATH:?", "EXPOSE $PATH"])
def test_a_change_that_cannot_be_made_leaves_nothing(
    box: Engine, change: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(box._store.layers, "copying", None)  # nothing comes so far
    blobs = set(Layout.default(box.home).blobs.iterdir())
    with pytest.raises(InvalidInput):
        box.commit("box", "mine/changed", CommitRequest(changes=(change,)))
    assert set(Layout.default(box.home).blobs.iterdir()) == blobs


def test_the_flag(box: Engine, cellblock: Cellblock):
    done = cellblock("commit", "-c", "ENV A='b c'", "--change", "CMD echo $A", "box", "mine/b")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "no layer was added" in done.stderr
    assert cellblock("run", "--rm", "mine/b").stdout == "b c\n"
    refused = cellblock("commit", "-c", "ADD x y", "nobox")
    assert (refused.returncode, refused.stdout) == (125, "")
    assert refused.stderr.startswith(
        "cellblock: change 'ADD x y' is not valid: 'ADD' is none of CMD,"
    )
    assert refused.stderr.count("\n") == 1
