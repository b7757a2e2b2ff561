"""What callers do when they are killed: what there is before, and what must hold afterwards.

Each is done with 20 files or layers, in a store that has the base image. A check finds all or
nothing, does it once more, finds all, and leaves nothing behind.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from cellblock_engine import (
    ContainerNotFound,
    Digest,
    Engine,
    ImageNotFound,
    RunRequest,
)
from cellblock_engine.layout import Layout
from support.fakeregistry import FakeRegistry, ImageParts, an_image
from support.fakeuploads import Uploads

FILES = 20
SCRIPT = "for n in $(seq 20); do echo > /srv/$n; done"
SHOW = ("sh", "-c", "cat /srv/*")
NAME, BARE = "mine/struck", "docker.io/mine/struck:latest"


@dataclass(frozen=True)
class Site:
    """Where a caller is killed: a store with the base image, a registry, an empty folder."""

    engine: Engine
    base: str
    fake: FakeRegistry
    uploads: Uploads
    folder: Path

    def parts(self, number: int) -> ImageParts:
        """Return an image of 20 layers that no other number has."""
        noise = random.Random(number)
        contents = tuple(noise.randbytes(1000) for _ in range(FILES))
        return an_image(layers=FILES, contents=contents)

    def pulled(self, number: int) -> str:
        """Return such an image's name; the store has it."""
        reference = self.fake.serve(self.parts(number), f"struck{number}")
        self.engine.pull(reference)
        return reference

    def ended(self, number: int, more: str = "") -> None:
        """Leave the container ``struck``, which has written files of this number."""
        argv = ("sh", "-c", SCRIPT.replace("echo", f"echo {number}") + more)
        container = self.engine.start(RunRequest(image=self.base, argv=argv, name="struck"))
        if not more:
            container.wait(10)

    def assert_whole(self, reference: str) -> None:
        """Assert that every file of every layer is there."""
        layers = Layout.default(self.engine.home).layers
        sizes = [
            (layers / layer.hex / "fs" / f"file{number}").stat().st_size
            for number, layer in enumerate(self.engine.image(reference).layers)
        ]
        assert sizes == [1000] * FILES

    def forget(self, reference: str) -> None:
        """Remove the image, and assert that it is gone."""
        self.engine.remove_image(reference)
        with pytest.raises(ImageNotFound):
            self.engine.image(reference)


class Case:
    """One call; ``program`` is what is killed, with ``engine``, ``name`` and ``file`` in it."""

    program = ""

    def __init__(self, site: Site) -> None:
        self.site, self.engine = site, site.engine
        self.file = site.folder / "file"

    def prepare(self, number: int) -> str:
        """Make what the call needs, other than any other number's; return its ``name``."""
        return self.site.base

    def check(self, number: int, name: str) -> None:
        """Assert what must hold, and clean up."""


class Run(Case):
    """A container is run to its end."""

    program = f"engine.run(name, ['sh', '-c', {SCRIPT!r}])"


class Remove(Case):
    """A running container is removed."""

    program = "engine.container('struck').remove(force=True)"

    def prepare(self, number: int) -> str:
        """Start it."""
        self.site.ended(number, "; sleep 60")
        return self.site.base


class Pull(Case):
    """An image of 20 layers is pulled."""

    program = "engine.pull(name)"

    def prepare(self, number: int) -> str:
        """Let the registry have it."""
        return self.site.fake.serve(self.site.parts(number), f"struck{number}")

    def check(self, number: int, name: str) -> None:
        """Pulled again, it is whole."""
        self.engine.pull(name)
        self.site.assert_whole(name)
        self.site.forget(name)


class RemoveImage(Case):
    """An image of 20 layers is removed."""

    program = "engine.remove_image(name)"

    def prepare(self, number: int) -> str:
        """Pull it."""
        return self.site.pulled(number)

    def check(self, number: int, name: str) -> None:
        """What is left of it does not keep it from being whole again."""
        with suppress(ImageNotFound):
            self.engine.image(name)
            self.site.assert_whole(name)
        self.engine.pull(name)
        self.site.assert_whole(name)
        self.site.forget(name)


class Commit(Case):
    """A container that has ended becomes an image."""

    program = "engine.commit('struck', name)"

    def prepare(self, number: int) -> str:
        """Run it."""
        self.site.ended(number)
        return NAME

    def check(self, number: int, name: str) -> None:
        """An image that is there is whole, and the container can become one."""
        wanted = [f"{number}\n".encode() * FILES]
        with suppress(ImageNotFound):
            wanted.append(self.engine.run(name, SHOW).stdout)
        self.engine.commit("struck", name)
        wanted.append(self.engine.run(name, SHOW).stdout)
        assert len(set(wanted)) == 1, wanted
        self.engine.container("struck").remove(force=True)
        self.engine.remove_image(name)


class CommitRunning(Commit):
    """One that runs becomes an image; it does not stay frozen."""

    def prepare(self, number: int) -> str:
        """Start it."""
        self.site.ended(number, "; echo ready; sleep 60")
        log = self.engine.container("struck").logs
        while not list(log()):
            pass
        return NAME

    def check(self, number: int, name: str) -> None:
        """It goes on."""
        done = self.engine.container("struck").exec(["cat", "/srv/1"], timeout=10)
        assert done.stdout == f"{number}\n".encode()
        super().check(number, name)


class Push(Case):
    """The image of a commit is pushed."""

    program = "engine.push(name)"

    def prepare(self, number: int) -> str:
        """Make it."""
        name = f"{self.site.fake.host}/push{number}:latest"
        self.site.ended(number)
        self.engine.commit("struck", name)
        self.engine.container("struck").remove()
        self.site.uploads.manifests.clear()
        return name

    def check(self, number: int, name: str) -> None:
        """The registry has no image or all of it, and what is missing can be sent."""
        image = self.engine.image(name)
        for raw, _ in self.site.uploads.manifests.values():
            assert Digest.of(raw) == image.manifest
        pushed = self.engine.push(name)
        assert (pushed.id, pushed.layers) == (image.id, image.layers)
        self.engine.remove_image(name)
        fetched = self.engine.pull(name)
        assert (fetched.id, fetched.manifest) == (image.id, pushed.manifest)
        self.site.forget(name)


class Save(Case):
    """An image of 20 layers is saved, every other time in another file's place."""

    program = "engine.save([name], file)"

    def prepare(self, number: int) -> str:
        """Pull it."""
        if number % 2:
            self.file.write_text("before")
        return self.site.pulled(number)

    def check(self, number: int, name: str) -> None:
        """The file is as it was, or whole; saved again, it is whole and nothing is beside it."""
        found = set(os.listdir(self.file.parent))
        assert len(found - {"file"}) <= 1, found
        before = self.file.read_bytes() if "file" in found else b"none"
        assert before[:6] in (b"before", b"none", b"blobs/"), before[:80]
        self.engine.save([name], self.file)
        assert os.listdir(self.file.parent) == ["file"]
        assert before in (b"before", b"none", self.file.read_bytes())
        self.site.forget(name)
        self.engine.load(self.file)
        self.site.assert_whole(name)
        self.site.forget(name)
        self.file.unlink()


class Load(Case):
    """An archive with an image of 20 layers is loaded."""

    program = "engine.load(file)"

    def prepare(self, number: int) -> str:
        """Save it."""
        name = self.site.pulled(number)
        self.engine.save([name], self.file)
        self.engine.remove_image(name)
        return name

    def check(self, number: int, name: str) -> None:
        """It is there whole or not at all, and can be loaded."""
        with suppress(ImageNotFound):
            self.engine.image(name)
            self.site.assert_whole(name)
        (image,) = self.engine.load(self.file)
        assert str(image.references[0]) == name
        self.site.assert_whole(name)
        self.site.forget(name)


class Tag(Case):
    """A name moves from one image to another."""

    program = f"engine.tag(name, {NAME!r})"

    def prepare(self, number: int) -> str:
        """Give the name to the base."""
        self.engine.tag(self.site.base, NAME)
        return self.site.pulled(number)

    def check(self, number: int, name: str) -> None:
        """It names one of the two."""
        named = self.engine.image(NAME).id
        assert named in (self.engine.image(self.site.base).id, self.engine.image(name).id)
        assert self.engine.tag(name, NAME).id == self.engine.image(name).id
        assert self.engine.remove_image(NAME).deleted == ()
        self.site.forget(name)


class Prune(Case):
    """Containers that have ended go, and images without a name."""

    program = "engine.prune()"

    def prepare(self, number: int) -> str:
        """Leave one of each."""
        self.site.ended(number)
        image = self.engine.commit("struck")
        return str(image.id)

    def check(self, number: int, name: str) -> None:
        """Pruned again, nothing of them is left."""
        self.engine.prune()
        with pytest.raises(ContainerNotFound):
            self.engine.container("struck")
        with pytest.raises(ImageNotFound):
            self.engine.image(name)


CASES: Mapping[str, type[Case]] = MappingProxyType(
    {
        "pull": Pull,
        "rmi": RemoveImage,
        "run": Run,
        "rm": Remove,
        "commit": Commit,
        "commit running": CommitRunning,
        "push": Push,
        "save": Save,
        "load": Load,
        "tag": Tag,
        "prune": Prune,
    }
)
