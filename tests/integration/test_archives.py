"""Images in files, beside skopeo and umoci: what others write is loaded, and the reverse."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cellblock_engine import Engine, InvalidInput, RunRequest, StoreError, Unsupported
from cellblock_engine.layout import Layout
from support import capabilities
from support.umoci import assert_same_tree

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("root")


def skopeo(*words: str) -> str:
    argv = [capabilities.need_program("skopeo"), "--insecure-policy", *words]
    done = subprocess.run(argv, capture_output=True, check=True, text=True, timeout=100)
    return done.stdout


@pytest.fixture
def committed(base_engine: Engine, base_image: str):
    """Return the name of an image whose upper layer has no blob."""
    request = RunRequest(image=base_image, argv=("sh", "-c", "echo hi > /srv/hi"), name="box")
    with base_engine.spawn(request) as attached:
        assert attached.wait().exit_code == 0
    base_engine.commit("box", "mine/box:1")
    yield "mine/box:1"
    base_engine.remove_image("mine/box:1", force=True)


def test_a_round_trip_keeps_every_byte(
    base_engine: Engine, engine: Engine, base_image: str, committed: str, tmp_path: Path
) -> None:
    file = tmp_path / "out.tar"
    base_engine.save([base_image, committed], file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    loaded = {image.references[0]: image for image in engine.load(file)}
    for name in (base_image, committed):
        image = base_engine.image(name)
        (found,) = [each for ref, each in loaded.items() if ref in image.references]
        assert (found.id, found.manifest) == (image.id, image.manifest)
    assert engine.run(committed, ["cat", "/srv/hi"]).check().stdout == b"hi\n"
    engine.save([base_image, committed], tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == file.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again.tar", "out.tar", "store"]


def test_others_read_what_is_saved(
    base_engine: Engine, committed: str, tmp_path: Path, engine: Engine
) -> None:
    file = tmp_path / "out.tar"
    base_engine.save([committed], file)
    image = base_engine.image(committed)
    found = json.loads(skopeo("inspect", "--config", f"docker-archive:{file}:{committed}"))
    assert found["rootfs"]["diff_ids"] == list(map(str, image.layers))
    assert json.loads(skopeo("inspect", f"oci-archive:{file}"))["Digest"] == str(image.manifest)
    layout = tmp_path / "layout"
    skopeo("copy", "--quiet", f"oci-archive:{file}", f"oci:{layout}:one")
    layers = base_engine._store.layers.chain(image.layers)
    assert b"srv/hi" in assert_same_tree(f"{layout}:one", layers, tmp_path)
    skopeo("copy", "--quiet", f"docker-archive:{file}:{committed}", f"docker-archive:{file}2:a:2")
    (again,) = engine.load(Path(f"{file}2"))
    assert (again.references[0].familiar, again.layers) == ("a:2", image.layers)
    assert engine.run("a:2", ["cat", "/srv/hi"]).check().stdout == b"hi\n"


def test_a_failed_save_leaves_what_was_there(
    base_engine: Engine, committed: str, tmp_path: Path
) -> None:
    file = tmp_path / "out.tar"
    file.write_text("before")
    layer = base_engine.image(committed).layers[-1]
    damaged = Layout.default(base_engine.home).layers / layer.hex / "fs" / "srv" / "hi"
    damaged.write_text("ho\n")
    try:
        with pytest.raises(StoreError, match="layer"):
            base_engine.save([committed], file)
    finally:
        damaged.write_text("hi\n")
    assert (os.listdir(tmp_path), file.read_text()) == (["out.tar"], "before")
    with pytest.raises(InvalidInput, match="directory"):
        base_engine.save([committed], tmp_path)
    with pytest.raises(Unsupported, match="own image"):
        base_engine.save(["host"], file)


def test_the_verbs_are_piped(
    base_engine: Engine, base_home: Path, base_image: str, tmp_path: Path
) -> None:
    cellblock = f"{sys.executable} -m cellblock"
    other = f"CELLBLOCK_HOME={tmp_path}/other"
    command = f"{cellblock} save {base_image} | gzip -1 | {other} {cellblock} load"
    environment = {**os.environ, "CELLBLOCK_HOME": str(base_home)}
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
        env=environment,
    )
    assert (done.stdout, done.stderr) == (f"Loaded image: {base_image}\n", "")
    assert os.listdir(Layout.default(tmp_path / "other").staging) == []
