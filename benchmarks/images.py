"""What an image costs on its way: commits of a running container, save, push, load.

The container has what ``pip install pandas`` leaves, copied from one tree, and in each round
something of its own, so that neither engine finds its work done. One round is all steps in a row,
each by both engines before the next. What was written before is on the disk when a step begins:
cellblock syncs what it makes, and would pay for it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from cellblock_engine import Bind, ContainerNotFound, Engine, RunRequest
from support import images

from .peers import Docker
from .rounds import DISCARDED_ROUNDS, Contestant, nothing, table

TREE, SITE = "/tree", "/usr/local/lib/pandas"
INSTALL = f"cp -a {TREE} {SITE}"
SMALL = "cp -a {tree}/dateutil /usr/local/lib/small; echo {round} > /usr/local/lib/small/round"


class Side(Protocol):
    """An engine, and its container ``box``; image names are the caller's."""

    def fresh(self) -> None:
        """Forget images and container of the last round; start a container and put the tree in."""

    def run(self, script: str) -> None:
        """Run a script in the container."""

    def commit(self, name: str) -> None:
        """Make an image of the running container."""

    def save(self, name: str, file: Path) -> None:
        """Write the image into a file."""

    def push(self, name: str) -> None:
        """Send the image to the registry in its name."""

    def empty(self) -> None:
        """Have no image and no layer any more."""

    def load(self, file: Path) -> None:
        """Read the images of an archive."""


def tables(
    stack: ExitStack, directory: Path, image: str, docker: Docker | None, rounds: int
) -> str:
    """Measure and return the tables; ``image`` is the base, in a registry."""
    directory.mkdir()
    ours = Cellblock(stack, directory / "store", image)
    sides: dict[str, Side] = {"cellblock": ours}
    if docker is not None:
        sides["docker"] = DockerSide(docker, image)
    registry = image.partition("/")[0]
    times: dict[str, list[Contestant]] = {}
    for number in range(rounds + DISCARDED_ROUNDS):
        counted = number >= DISCARDED_ROUNDS
        # Both load the same archive: Docker's, where it is here.
        loaded = directory / f"{list(sides)[-1]}.tar"
        steps = [
            _Round(
                name, side, f"{registry}/bench/{name}{number}", directory / f"{name}.tar", number
            ).steps(loaded)
            for name, side in sides.items()
        ]
        for same in zip(*steps, strict=True):
            for contestant in same:
                contestant.once(counted=counted)
        for same in zip(*steps, strict=True):
            for contestant in same:
                _add(times, contestant)
    shown = [table(title, found, reference="docker") for title, found in times.items()]
    frozen_ms = [1000 * seconds for seconds in ours.paused_s[2 * DISCARDED_ROUNDS :]]
    return "\n".join([*shown, _remark(frozen_ms)])


def _add(times: dict[str, list[Contestant]], measured: Contestant) -> None:
    """Gather what was measured in several rounds: ``measured.name`` is a step's and a side's."""
    title, _, name = measured.name.rpartition(": ")
    known = times.setdefault(title, [])
    for contestant in known:
        if contestant.name == name:
            contestant.times_ms += measured.times_ms
            return
    known.append(Contestant(name, nothing, times_ms=measured.times_ms))


def _remark(frozen_ms: Sequence[float]) -> str:
    return (
        "cellblock is in process, docker a client and its daemon. A commit of cellblock returns "
        "when its image is sealed: hashed, on disk, ready to run. It froze the container for "
        f"{statistics.median(frozen_ms):.1f} ms (median; at most {max(frozen_ms):.1f} ms), docker "
        "for all of its commit.\n"
    )


class _Round:
    """One side's steps of one round."""

    def __init__(self, name: str, side: Side, image: str, file: Path, number: int) -> None:
        self._name, self._side, self._number = name, side, number
        self._image, self._file = image, file

    def steps(self, archive: Path) -> tuple[Contestant, ...]:
        """Return them in order; ``archive`` is what is loaded."""
        side, second = self._side, f"{self._image}-second"
        return (
            self._step("commit, running, after pip install pandas", self._side_commit, self._ready),
            self._step(
                "commit again, after one small package", partial(side.commit, second), self._small
            ),
            self._step("save", partial(side.save, self._image, self._file), self._no_file),
            self._step("push to docker-registry", partial(side.push, self._image)),
            self._step("load into an empty store", partial(side.load, archive), side.empty),
        )

    def _step(
        self, title: str, run: Callable[[], object], prepare: Callable[[], object] = nothing
    ) -> Contestant:
        def settle() -> None:
            prepare()
            os.sync()

        return Contestant(f"{title}: {self._name}", run, settle)

    def _side_commit(self) -> None:
        self._side.commit(self._image)

    def _ready(self) -> None:
        self._side.fresh()
        self._side.run(f"{INSTALL}; echo {self._number} > {SITE}/round")

    def _small(self) -> None:
        self._side.run(SMALL.format(tree=TREE, round=self._number))

    def _no_file(self) -> None:
        self._file.unlink(missing_ok=True)


class Cellblock:
    """The engine, in process."""

    def __init__(self, stack: ExitStack, home: Path, image: str) -> None:
        self._home, self._image = home, image
        self._engine = stack.enter_context(Engine.open(home))
        stack.callback(self._without_container)
        self._loading = 0
        self.paused_s: list[float] = []

    def fresh(self) -> None:
        """Start anew, from the base image."""
        self._without_container()
        for known in self._engine.images():
            self._engine.remove_image(str(known.id), force=True)
        self._engine.pull(self._image)
        bind = Bind(images.pandas_tree(), TREE)
        request = RunRequest(self._image, ("sleep", "3600"), name="box", binds=(bind,))
        self._engine.start(request)

    def _without_container(self) -> None:
        with suppress(ContainerNotFound):
            self._engine.container("box").remove(force=True)

    def run(self, script: str) -> None:
        """Run a script in the container."""
        self._engine.container("box").exec(["sh", "-ec", script]).check()

    def commit(self, name: str) -> None:
        """Make an image of it, and note for how long it stood still."""
        self.paused_s.append(self._engine.commit("box", name).paused_s)

    def save(self, name: str, file: Path) -> None:
        """Write the image into a file."""
        self._engine.save([name], file)

    def push(self, name: str) -> None:
        """Send the image."""
        self._engine.push(name)

    def empty(self) -> None:
        """Take a store beside, which is empty."""
        shutil.rmtree(self._beside(), ignore_errors=True)
        self._loading += 1

    def load(self, file: Path) -> None:
        """Read the archive into the store beside."""
        with Engine.open(self._beside()) as engine:
            engine.load(file)

    def _beside(self) -> Path:
        return self._home.with_name(f"loaded-{self._loading}")


class DockerSide:
    """Docker's client and daemon."""

    def __init__(self, docker: Docker, image: str) -> None:
        self._docker, self._image = docker, image

    def fresh(self) -> None:
        """Start anew, from the base image."""
        self.empty()
        self._docker("pull", self._image)
        volume = f"{images.pandas_tree()}:{TREE}:ro"
        words = ("--detach", "--name", "box", "--network", "none", "--volume", volume)
        self._docker("run", *words, self._image, "sleep", "3600")

    def run(self, script: str) -> None:
        """Run a script in the container."""
        self._docker("exec", "box", "sh", "-ec", script)

    def commit(self, name: str) -> None:
        """Make an image of the container; it is frozen meanwhile."""
        self._docker("commit", "box", name)

    def save(self, name: str, file: Path) -> None:
        """Write the image into a file."""
        self._docker("save", "--output", str(file), name)

    def push(self, name: str) -> None:
        """Send the image."""
        self._docker("push", name)

    def empty(self) -> None:
        """Remove the container and all images."""
        with suppress(subprocess.CalledProcessError):  # there is none yet
            self._docker("rm", "--force", "--volumes", "box")
        listed = ("images", "--all", "--quiet", "--no-trunc")  # children before parents
        if found := dict.fromkeys(self._docker(*listed).split()):
            self._docker("rmi", "--force", *found)

    def load(self, file: Path) -> None:
        """Read the archive."""
        self._docker("load", "--input", str(file))
