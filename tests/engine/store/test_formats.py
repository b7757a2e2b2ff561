"""The format of a store: its mark, its future, and the way there from the past."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from cellblock_engine import Engine, StoreError
from cellblock_engine.layout import Layout
from cellblock_engine.store import Store, formats
from cellblock_engine.store.containers import Containers


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout.default(tmp_path / "store")


def make(layout: Layout) -> None:
    with Store(layout).referencing():
        pass


def form(layout: Layout) -> int:
    return json.loads(layout.format.read_text())["format"]


def test_looking_makes_nothing_and_the_first_use_marks(layout):
    engine = Engine.open(layout.home)
    assert (engine.images(), engine.containers(), layout.home.exists()) == ((), (), False)
    make(layout)
    assert formats.read(layout).number == formats.newest()
    assert set(os.listdir(layout.home)) == {"format", "gc.lock"}


def test_what_an_engine_makes_is_known_by_name(tmp_path):
    with Engine.open(tmp_path / "store") as engine:
        engine.doctor()
        assert formats.foreign(engine._layout) == ()


def test_a_newer_store_is_refused_in_one_line(layout):
    layout.home.mkdir()
    layout.format.write_text('{"format": 99, "writer": "7.0"}')
    for use in (Engine.images, Engine.containers, Engine.doctor, lambda e: e.run(argv=["true"])):
        with pytest.raises(StoreError, match=r"format 99, written by cellblock 7\.0, .*use that"):
            use(Engine.open(layout.home))
    assert os.listdir(layout.home) == ["format"]


def test_a_store_that_became_newer_meanwhile_is_refused_too(layout):
    make(layout)
    store = Store(layout)
    layout.format.write_text('{"format": 99, "writer": "7.0"}')
    with pytest.raises(StoreError, match="format 99"), store.referencing():
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x", "writer": ""}', "\0\0"])
def test_a_damaged_mark_is_named(layout, text):
    layout.home.mkdir()
    layout.format.write_text(text)
    with pytest.raises(StoreError, match="format is damaged"):
        Engine.open(layout.home).images()


def test_a_directory_of_somebody_else_is_not_made_a_store(layout):
    layout.home.mkdir()
    (layout.home / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"is not a store, it has other files \('thesis.tex'\)"):
        make(layout)
    assert os.listdir(layout.home) == ["thesis.tex"]


def test_a_disk_of_its_own_is(layout):
    (layout.home / "lost+found").mkdir(parents=True)
    make(layout)
    assert formats.read(layout) is not None


def test_a_store_of_today_without_a_mark_is_format_1(layout, monkeypatch):
    make(layout)
    layout.format.unlink()
    seen = []
    monkeypatch.setattr(formats, "STEPS", (lambda layout: seen.append(1), lambda _: seen.append(2)))
    Engine.open(layout.home).images()
    Engine.open(layout.home).images()
    assert (seen, form(layout)) == ([1, 2], 3)


def test_a_fresh_store_needs_no_steps(layout, monkeypatch):
    monkeypatch.setattr(formats, "STEPS", (lambda _: pytest.fail("it is new"),))
    make(layout)
    Engine.open(layout.home).images()
    assert form(layout) == 2


def test_nothing_is_migrated_while_somebody_uses_it(layout, monkeypatch):
    from cellblock_engine import Conflict

    make(layout)
    with Store(layout).referencing():
        monkeypatch.setattr(formats, "STEPS", (lambda _: pytest.fail("it is in use"),))
        monkeypatch.setattr(formats, "_WAIT_S", 0.1)
        with pytest.raises(Conflict, match="the store is in use"):
            Engine.open(layout.home).images()
    assert form(layout) == 1


RENAME_NAMES = """
import os, signal, sys
from pathlib import Path
from cellblock_engine import Engine
from cellblock_engine.layout import Layout
from cellblock_engine.store import formats

def remove_to_removal(layout):
    # A real change of the past: "remove": bool became "removal": str.
    import json
    for number, path in enumerate(sorted(layout.containers.glob("*/config.json"))):
        plain = json.loads(path.read_text())
        if "remove" in plain:
            plain["removal"] = "at end" if plain.pop("remove") else "never"
            draft = path.with_name(".config.json")
            draft.write_text(json.dumps(plain))
            draft.rename(path)
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

formats.STEPS = (remove_to_removal, lambda layout: (layout.home / "host").mkdir(exist_ok=True))
print(len(Engine.open(Path(sys.argv[1])).containers()))
"""


def test_a_migration_that_was_killed_goes_on(layout):
    from .test_containers import EARLIEST

    make(layout)
    layout.format.unlink()
    for number in range(5):
        directory = layout.containers / f"{number}".zfill(64)
        directory.mkdir(parents=True)
        config = {**EARLIEST, "id": directory.name, "name": f"c{number}"}
        (directory / "config.json").write_text(json.dumps(config))
    for victim, status in ((1, -signal.SIGKILL), (3, -signal.SIGKILL), (99, 0)):
        assert not layout.format.exists()
        argv = [sys.executable, "-c", RENAME_NAMES, str(layout.home), str(victim)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
    assert done.stdout == "5\n"
    assert form(layout) == 3
    found = list(Containers(layout).list())
    assert {config.unknown for config in found} == {()}
    texts = [path.read_text() for path in layout.containers.glob("*/config.json")]
    assert all('"removal": "never"' in text and '"remove"' not in text for text in texts)
