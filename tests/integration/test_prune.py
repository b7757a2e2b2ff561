"""Cleaning up: what nothing uses goes, what anything uses stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cellblock_engine import (
    Conflict,
    Engine,
    Removal,
    RunRequest,
)
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import launcher
from support import leaks

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

SECONDS = float(os.environ.get("CELLBLOCK_PRUNING_SECONDS", "8"))
pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store that the tests here may empty."""
    path = tmp_path_factory.mktemp("pruned") / "store"
    yield path
    layout = Layout.default(path)
    launcher.dismiss_all(layout)
    leaks.quiet(layout.home, layout.run, processes=0)


@pytest.fixture
def own(home: Path, base_image: str) -> Iterator[Engine]:
    """An engine whose store has the base image, and nothing else."""
    with Engine.open(home) as opened:
        if not opened.images():
            opened.pull(base_image)
        base = opened.image(base_image).id
        yield opened
        for info in opened.containers():
            opened.container(info.id).remove(force=True)
        opened.prune(images="used", keep=[base])


def ended(engine: Engine, image: str, name: str, script: str = "echo 1 > /srv/new") -> None:
    request = RunRequest(image=image, argv=("sh", "-ec", script), name=name)
    with engine.spawn(request) as attached:
        assert attached.wait(30).exit_code == 0


def names(engine: Engine) -> set[str]:
    return {info.name for info in engine.containers()}


def usage(engine: Engine, kind: str):
    (found,) = [row for row in engine.disk_usage() if row.kind == kind]
    return found


def kept(engine: Engine) -> list[str]:
    """Return what the store holds of images."""
    layout = Layout.default(engine.home)
    places = (layout.layers, layout.blobs, layout.chains, layout.references)
    return sorted(f"{place.name}/{name}" for place in places for name in os.listdir(place))


def test_ended_containers_go_and_others_stay(own: Engine, base_image: str):
    ended(own, base_image, "gone", "head -c 3000000 /dev/zero > /srv/big")
    own.create(RunRequest(image=base_image, argv=("true",), name="created"))
    running = own.start(RunRequest(image=base_image, argv=("sleep", "60"), name="up"))
    of_kernel = RunRequest(
        image=base_image, argv=("true",), name="kernel", removal=Removal.IF_ABANDONED
    )
    with own.spawn(of_kernel) as attached:
        attached.wait(30)
    found = usage(own, "containers")
    assert (found.total, found.active) == (4, 1)
    assert 3_000_000 <= found.reclaimable_bytes < found.size_bytes
    would = own.prune(images=None, dry_run=True)
    assert names(own) == {"gone", "created", "up", "kernel"}
    done = own.prune(images=None)
    assert done == would
    assert set(done.containers) == {"gone", "created"}
    assert 3_000_000 <= done.freed_bytes < 3_500_000
    assert names(own) == {"up", "kernel"}
    assert running.exec(["true"]).exit_code == 0
    assert own.prune(images=None).containers == ()


def test_images_go_unless_they_have_a_tag_or_are_used(own: Engine, base_image: str):
    ended(own, base_image, "one")
    tagged = own.commit("one", "mine/tagged")
    ended(own, base_image, "two", "echo 2 > /srv/new")
    bare = own.commit("two")
    before = kept(own)
    would = own.prune(containers=False, dry_run=True)
    assert kept(own) == before
    done = own.prune(containers=False)
    assert done == would
    assert done.untagged == bare.references
    assert set(done.deleted) == {bare.id, bare.layers[-1]}
    assert {image.id for image in own.images()} == {tagged.id, own.image(base_image).id}
    # The base is used by both containers, the other by none.
    done = own.prune(containers=False, images="used")
    assert set(done.deleted) == {tagged.id, tagged.layers[-1]}
    assert [image.id for image in own.images()] == [own.image(base_image).id]
    assert own.spawn("two").wait(30).exit_code == 0


def test_all_goes_at_once_and_the_dry_run_knows_it(own: Engine, base_image: str):
    ended(own, base_image, "box")
    base = own.image(base_image)
    kept_back = own.prune(images="used", keep=[base.id], dry_run=True)
    assert kept_back.untagged == ()
    would = own.prune(images="used", dry_run=True)
    assert set(would.deleted) == {base.id, *base.layers}
    rows = {row.kind: row for row in own.disk_usage()}
    assert rows["images"].reclaimable_bytes == 0  # the container uses it
    done = own.prune(images="used")
    assert done == would
    assert kept(own) == []
    assert all(row.size_bytes == row.total == 0 for row in own.disk_usage())
    assert own.prune(images="used").freed_bytes == 0
    own.pull(base_image)
    assert own.run(base_image, ["true"]).exit_code == 0


def test_an_image_without_a_name_stays_while_a_container_needs_it(own: Engine, base_image: str):
    base = own.image(base_image)
    own.run(base_image, ["true"], name="kept", remove=False)
    own.remove_image(base_image, force=True)
    own.prune(containers=False, images="used")
    kept = own.start("kept")
    assert kept.wait(10).exit_code == 0
    assert own.images() == ()
    (nameless,) = own.images(nameless=True)
    assert (nameless.id, nameless.references) == (base.id, ())
    found = usage(own, "layers")
    assert (found.total, found.active, found.reclaimable_bytes) == (1, 1, 0)
    kept.remove()
    assert set(own.prune().deleted) == set(base.layers)
    assert own.images(nameless=True) == ()


def test_what_is_being_used_is_waited_for(own: Engine, base_image: str, monkeypatch):
    monkeypatch.setattr("cellblock_engine.store.images._GC_WAIT_S", 0.1)
    with own._store.referencing():
        own.prune(images="used", dry_run=True)
        own.disk_usage()
        with pytest.raises(Conflict, match="the image store is in use"):
            own.prune(images="used")
    assert own.run(base_image, ["true"]).exit_code == 0


def test_an_empty_store_has_nothing(engine: Engine):
    assert engine.prune(images="used").freed_bytes == 0
    assert [row.total for row in engine.disk_usage()] == [0, 0, 0, 0]


def test_the_verbs(own: Engine, base_image: str, cellblock: Cellblock):
    ended(own, base_image, "box")
    home = own.home
    refused = cellblock("container", "prune", home=home)
    assert (refused.returncode, refused.stdout) == (125, "")
    assert refused.stderr.endswith("-f prunes without asking\n")
    dry = cellblock("system", "prune", "--dry-run", home=home)
    assert dry.stdout.startswith("Would delete container: box\n")
    done = cellblock("container", "prune", "-f", home=home)
    assert done.stdout.startswith("Deleted container: box\nTotal reclaimed space: ")
    assert names(own) == set()
    assert cellblock("df", home=home).stdout.startswith("TYPE         TOTAL   ACTIVE   SIZE")
    gone = cellblock("image", "prune", "-af", home=home)
    assert "Deleted: sha256:" in gone.stdout
    assert own.images() == ()


@pytest.mark.attack(73)
def test_processes_that_commit_tag_prune_and_run_at_once(own: Engine, base_image: str):
    """Two processes; ``make soak`` has more of them elsewhere, and lets these take longer."""
    base = own.image(base_image)
    argv = [sys.executable, "-m", "support.crowd", str(own.home), base_image]
    crowd = [
        subprocess.Popen(
            [*argv, str(seed), str(SECONDS)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for seed in (1, 2)
    ]
    answers: Counter[str] = Counter()
    try:
        for member in crowd:
            output, _ = member.communicate(timeout=SECONDS + 60)
            assert member.returncode == 0
            report = json.loads(output.splitlines()[-1])
            assert report["unexpected"] == [], "\n".join(report["unexpected"])
            answers.update(report["answers"])
    finally:
        for member in crowd:
            member.kill()
            member.communicate()
    print(dict(sorted(answers.items())))
    for done in ("commit", "run", "run_committed", "tag", "remove_tag", "prune", "prune_all"):
        assert answers[f"{done} done"] > 0, answers
    assert own.doctor().stale == ()
    own.prune(images="used", keep=[base.id])
    layout = Layout.default(own.home)
    assert os.listdir(layout.staging) == []
    assert sorted(os.listdir(layout.layers)) == sorted(layer.hex for layer in base.layers)
    assert own.run(base_image, ["true"]).exit_code == 0
