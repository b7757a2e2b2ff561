"""Whatever is flipped, deleted or added in a store is found, and mended as far as can be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cellblock_engine import Diagnosis, Engine, Image, ImageNotFound, RunRequest, StoreError
from cellblock_engine.doctor import diagnosis
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import state
from support.layouts import LayoutWriter, small_tar
from support.ordinary import OrdinaryUser

pytestmark = pytest.mark.attack(79)

LOADED, OWN = "docker.io/library/loaded:latest", "docker.io/mine/own:latest"


@dataclass(frozen=True)
class Site:
    """A store with an image that was loaded, one that was made here, and a container."""

    engine: Engine
    layout: Layout
    loaded: Image
    own: Image
    source: Path

    def layer(self, image: Image, number: int = 0) -> Path:
        return self.layout.layers / image.layers[number].hex

    def blob(self, number: int) -> Path:
        """Return the blob of a layer of the loaded image."""
        manifest = json.loads((self.layout.blobs / self.loaded.manifest.hex).read_bytes())
        digest: str = manifest["layers"][number]["digest"]
        return self.layout.blobs / digest.removeprefix("sha256:")

    @property
    def container(self) -> Path:
        (found,) = self.layout.containers.iterdir()
        return found


@pytest.fixture(autouse=True)
def _without_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tried elsewhere, and take longest."""
    monkeypatch.setattr(diagnosis, "_rungs", lambda *_: iter(()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a store, and of what was loaded into it, to be copied."""
    place = tmp_path_factory.mktemp("made")
    writer = LayoutWriter(place / "source")
    below = small_tar(place / "below.tar", {"srv": None, "srv/one": b"one\n", "srv/two": b"2\n"})
    above = small_tar(place / "above.tar", {"srv/.wh.two": b"", "srv/deep/three": b"3\n"})
    writer.image([writer.layer(below), writer.layer(above)], tag="loaded")
    with Engine.open(place / "store") as engine:
        (loaded,) = engine.load(place / "source")
        engine.tag(str(loaded.id), LOADED)
        for reference in loaded.references:
            engine.remove_image(str(reference))
        engine.import_image(small_tar(place / "own.tar", {"file": b"mine\n"}), OWN)
        engine.create(RunRequest(argv=("true",), name="box"))
    return place


@pytest.fixture
def site(made: Path, engine: Engine, tmp_path: Path) -> Site:
    subprocess.run(["cp", "-a", made / "store", tmp_path], check=True, timeout=30)
    layout = Layout.default(tmp_path / "store")
    return Site(engine, layout, engine.image(LOADED), engine.image(OWN), made / "source")


def told(found: Diagnosis) -> list[str]:
    return [each.what for each in found.damage]


def flip(path: Path, at: int = 0) -> None:
    """Change one bit; times stay."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_store_that_is_whole(site: Site) -> None:
    for quick in (False, True):
        found = site.engine.doctor(quick=quick)
        assert told(found) == []
        assert found.checked.startswith("2 images, 6 blobs, 3 layers, 1 containers")
        assert ("contents were not read" in found.checked) == quick
    before = sorted(site.layout.home.rglob("*"))
    assert told(site.engine.doctor(repair=True)) == []
    assert sorted(site.layout.home.rglob("*")) == before


def remove_file(site: Site) -> None:
    (site.layer(site.loaded) / "fs/srv/one").unlink()


def add_file(site: Site) -> None:
    (site.layer(site.loaded, 1) / "fs/srv/deep/added").touch()


def change_mode(site: Site) -> None:
    (site.layer(site.loaded) / "fs/srv/one").chmod(0o4755)


def write_derivation(site: Site) -> None:
    site.layout.derivations.mkdir(mode=0o700)
    (site.layout.derivations / ("a" * 64)).write_text("{}")


def break_chain(site: Site) -> None:
    chain = next(each for each in site.layout.chains.iterdir() if (each / "fs").is_dir())
    (chain / "fs/srv/added").touch()


# What was done, what is said of it, whether only a look at contents finds it.
MENDED: list[tuple[Callable[[Site], object], str, bool]] = [
    (lambda site: flip(site.layer(site.loaded) / "fs/srv/one"), "its files have changed", True),
    (remove_file, "its files have changed", True),
    (add_file, "its files have changed", True),
    (change_mode, "its files have changed", True),
    (lambda site: shutil.rmtree(site.layer(site.loaded, 1)), "is not there", False),
    (lambda site: shutil.rmtree(site.layer(site.loaded) / "fs"), "is damaged", False),
    (lambda site: flip(site.layer(site.loaded) / "layer.json"), "is damaged", False),
    (lambda site: (site.layer(site.loaded) / "layer.json").unlink(), "is damaged", False),
    (lambda site: (site.layout.blobs / "added").touch(), "is no blob", False),
    (lambda site: (site.layout.blobs / ("a" * 64)).touch(), "another content", True),
    (lambda site: (site.layout.layers / "added").mkdir(), "is no layer", False),
    (lambda site: (site.layout.layers / ("a" * 64)).mkdir(), "is damaged", False),
    (lambda site: (site.layout.containers / "added").touch(), "is no container", False),
    (lambda site: (site.layout.names / "added").touch(), "is no name", False),
    (lambda site: (site.layout.references / "added").touch(), "reference added is damaged", False),
    (lambda site: (site.layout.names / "box").unlink(), "does not lead to it", False),
    (lambda site: flip(site.container / "config.json"), "its config is damaged", False),
    (lambda site: site.layout.home.chmod(0o775), "has mode 0775", False),
    (lambda site: site.layout.layers.chmod(0o777), "has mode 0777", False),
    (write_derivation, "derivation", False),
    (break_chain, "chain", True),
]


@pytest.mark.parametrize(("harm", "what", "deep"), MENDED)
def test_damage_is_found_and_mended(
    site: Site, harm: Callable[[Site], object], what: str, deep: bool
) -> None:
    harm(site)
    found = site.engine.doctor()
    assert len(found.damage) == 1, found.damage
    assert what in found.damage[0].what
    assert not found.damage[0].mended
    assert "doctor --repair" in found.damage[0].remedy or "pull" in found.damage[0].remedy
    assert bool(site.engine.doctor(quick=True).damage) != deep
    (mended,) = site.engine.doctor(repair=True).damage
    assert mended.mended
    assert told(site.engine.doctor()) == []
    assert len(site.engine.images()) == 2
    one = site.layer(site.loaded) / "fs/srv/one"
    assert (one.read_bytes(), one.stat().st_mode & 0o7777) == (b"one\n", 0o755)


@pytest.mark.parametrize("name", ["../../../{}/canary", "/{}/canary", "..", 7])
def test_a_name_that_is_a_path_moves_nothing(site: Site, tmp_path: Path, name: object) -> None:
    canary = tmp_path / "canary"
    canary.write_text("as it was")
    config = json.loads((site.container / "config.json").read_bytes())
    named = name.format(str(tmp_path)[1:]) if isinstance(name, str) else name
    (site.container / "config.json").write_text(json.dumps(config | {"name": named}))
    identifier = site.container.name
    (mended,) = site.engine.doctor(repair=True).damage
    assert "its name is none" in mended.what
    assert canary.read_text() == "as it was"
    assert (site.layout.damaged / identifier).is_dir()


def test_what_may_be_somebodys_work_is_set_aside(site: Site) -> None:
    (site.container / "upper0/fs/written").write_text("work")
    flip(site.container / "config.json")
    identifier = site.container.name
    (mended,) = site.engine.doctor(repair=True).damage
    aside = site.layout.damaged / identifier
    assert str(aside) in mended.mended
    assert (aside / "upper0/fs/written").read_text() == "work"
    assert site.engine.containers() == ()
    site.engine.reset(force=True)
    assert not aside.exists()


@pytest.mark.parametrize("kind", ["manifest", "config"])
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_an_image_that_is_not_there_in_full_is_forgotten_and_pulled_again(
    site: Site, kind: str, harm: Callable[[Path], None]
) -> None:
    digest = site.loaded.manifest if kind == "manifest" else site.loaded.id
    harm(site.layout.blobs / digest.hex)
    found = site.engine.doctor()
    assert any(f"image {LOADED}" in line for line in told(found))
    mended = site.engine.doctor(repair=True)
    assert any(LOADED in each.remedy and "pull" in each.remedy for each in mended.damage)
    assert told(site.engine.doctor()) == []
    assert [image.references for image in site.engine.images()] == [site.own.references]
    with pytest.raises(ImageNotFound):
        site.engine.image(LOADED)
    (again,) = site.engine.load(site.source)
    assert again.id == site.loaded.id
    assert told(site.engine.doctor()) == []


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_layers_blob_that_is_lost_is_needed_for_pushes_alone(
    site: Site, harm: Callable[[Path], None]
) -> None:
    harm(site.blob(0))
    (found,) = site.engine.doctor().damage
    assert site.blob(0).name[:12] in found.what
    assert found.lost == f"pushes and saves of {LOADED}"
    assert found.remedy == f"rmi {LOADED}, then pull or make anew"
    site.engine.doctor(repair=True)
    assert not site.blob(0).exists()
    assert "is not there" in site.engine.doctor().damage[0].what
    assert len(site.engine.images()) == 2
    site.engine.remove_image(LOADED)
    site.engine.load(site.source)
    assert told(site.engine.doctor()) == []


def test_a_damaged_mark(site: Site) -> None:
    flip(site.layout.format)
    with Engine.open(site.layout.home) as engine:
        with pytest.raises(StoreError, match="doctor --repair"):
            engine.doctor()
        assert told(engine.doctor(repair=True)) == []
        assert len(engine.images()) == 2


def test_neither_layer_nor_blob(site: Site) -> None:
    blob = site.blob(1)
    shutil.rmtree(site.layer(site.loaded, 1))
    flip(blob)
    site.engine.doctor(repair=True)
    assert told(site.engine.doctor()) == []
    assert [image.references for image in site.engine.images()] == [site.own.references]
    site.engine.load(site.source)
    assert told(site.engine.doctor()) == []


def test_a_layer_that_was_made_here_is_told_of_and_kept(site: Site) -> None:
    layer = site.layer(site.own)
    (layer / "fs/file").write_text("other\n")
    for repair in (False, True):
        (found,) = site.engine.doctor(repair=repair).damage
        assert "its files have changed" in found.what
        assert (found.mended, OWN in found.lost) == ("", True)
    assert (layer / "fs/file").read_text() == "other\n"


def test_what_runs_is_not_mended_under_its_feet(site: Site) -> None:
    busy = site.engine.create(RunRequest(image=LOADED, argv=("true",), name="busy"))
    changed = site.layer(site.loaded) / "fs/srv/one"
    flip(changed)
    lock = state.hold_lock(str(site.layout.containers / busy.id))  # as its monitor does
    (found,) = site.engine.doctor(repair=True).damage
    assert (found.mended, found.remedy) == ("", "stop busy, then doctor --repair")
    assert changed.read_bytes() != b"one\n"
    os.close(lock)
    (found,) = site.engine.doctor(repair=True).damage
    assert found.mended == "unpacked again"
    assert changed.read_bytes() == b"one\n"


OF_A_USER = """
import sys
from pathlib import Path
from cellblock_engine import Engine
from cellblock_engine.layout import Layout
with Engine.open() as engine:
    (image,) = engine.load(Path(sys.argv[1]))
    print(engine.doctor().damage)
    layer = Layout.default().layers / image.layers[0].hex
    (layer / "layer.json").unlink()
    changed = [each.what for each in engine.doctor(repair=True).damage]
    print(len(changed), changed, engine.doctor().damage)
"""


def test_the_store_of_an_ordinary_user(rootless_user: OrdinaryUser) -> None:
    """Whose layers have owners that only a process in their user namespace can read."""
    archive = rootless_user.home / "one.tar"
    small_tar(archive, {"private": b"x"})
    with tarfile.open(archive, "a") as tar:
        member = tarfile.TarInfo("others")
        member.uid = member.gid = 1234
        member.mode = 0o600
        tar.addfile(member)
    writer = LayoutWriter(rootless_user.home / "layout")
    writer.image([writer.layer(archive)], tag="one")
    subprocess.run(["chmod", "-R", "a+rX", str(rootless_user.home / "layout")], check=True)
    code = [rootless_user.python, "-c", OF_A_USER, rootless_user.home / "layout"]
    done = rootless_user.run(code)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "()"
    assert second.startswith("1 [")
    assert second.endswith("] ()")
