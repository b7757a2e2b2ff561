"""Random operations on a store that others work on too; run as ``python -m support.operations``.

Names are few, so that processes get into each other's way. What the engine may then answer is one
of its own errors; anything else is reported as the last line, a JSON list.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cellblock_engine import (
    Conflict,
    ContainerNotFound,
    Engine,
    ImageNotFound,
    RunRequest,
    StartFailed,
    Verdict,
)

from .tally import Tally

NAMES = tuple(f"shared{number}" for number in range(6))
# A container may be removed, and an image untagged, by somebody else at any moment.
# So a shared one may fail to start; :meth:`Worker.run`, which nobody removes, may not.
EXPECTED = (Conflict, ContainerNotFound, ImageNotFound, Verdict)


class Worker:
    """One process's operations."""

    def __init__(self, engine: Engine, image: str, pulls: Sequence[str], seed: int) -> None:
        self._engine, self._image, self._pulls = engine, image, pulls
        self._random = random.Random(seed)
        self.tally = Tally(EXPECTED)

    def work(self, count: int) -> None:
        """Do so many operations."""
        operations: tuple[Callable[[], object], ...] = (
            self.run,
            self.run_named,
            self.start,
            self.execute,
            self.logs,
            self.stop,
            self.remove,
            self.list,
            self.pull,
            self.remove_image,
            self.commit,
            self.compare,
            self.prune,
        )
        for _ in range(count):
            self.tally.attempt(self._random.choice(operations))

    def run(self) -> None:
        """Run a command to its end and look at its output."""
        word = str(self._random.random())
        done = self._engine.run(self._image, ["echo", word])
        assert done.stdout.decode().strip() == word, done

    def run_named(self) -> None:
        """Run under a shared name; somebody may remove it meanwhile."""
        name = self._random.choice(NAMES)
        with suppress(StartFailed):
            self._engine.run(self._image, ["sleep", "0.05"], name=name)

    def start(self) -> None:
        """Start one that stays."""
        argv = ("sh", "-c", "echo started; sleep 20")
        name = self._random.choice(NAMES)
        with suppress(StartFailed):
            self._engine.start(RunRequest(image=self._image, argv=argv, name=name))

    def execute(self) -> None:
        """Run a command in a shared one."""
        container = self._engine.container(self._random.choice(NAMES))
        with suppress(StartFailed):
            assert container.exec(["cat", "/etc/hostname"], timeout=10).exit_code in (0, 137)

    def logs(self) -> None:
        """Read what a shared one wrote."""
        for record in self._engine.container(self._random.choice(NAMES)).logs():
            assert record.data == b"started\n"

    def stop(self) -> None:
        """Stop a shared one."""
        self._engine.container(self._random.choice(NAMES)).stop(0)

    def remove(self) -> None:
        """Remove a shared one by force."""
        self._engine.container(self._random.choice(NAMES)).remove(force=True)

    def list(self) -> None:
        """Look at everything there is."""
        for info in self._engine.containers():
            assert info.status in ("created", "running", "exited")
        assert self._image in {str(r) for i in self._engine.images() for r in i.references}

    def pull(self) -> None:
        """Pull one of the small images."""
        self._engine.pull(self._random.choice(self._pulls))

    def remove_image(self) -> None:
        """Untag one of the small images."""
        self._engine.remove_image(self._random.choice(self._pulls))

    def commit(self) -> None:
        """Make an image of a shared one that has ended, under a shared name."""
        name = self._random.choice(NAMES)
        image = self._engine.commit(name, f"mine/{self._random.choice(NAMES)}")
        assert image.added is None or image.added == image.layers[-1]

    def compare(self) -> None:
        """Compare a shared one with its image, and an image with another."""
        name = self._random.choice(NAMES)
        with suppress(*EXPECTED):
            assert all(change.path.startswith("/") for change in self._engine.diff(name))
        for change in self._engine.diff_images(self._image, f"mine/{name}"):
            assert change.path.startswith("/")

    def prune(self) -> None:
        """Remove what has ended and is not used, or only tell; the shared image stays."""
        keep = (self._engine.image(self._image).id,)
        dry_run = self._random.random() < 0.5
        self._engine.prune(images="used", keep=keep, dry_run=dry_run)
        kinds = [usage.kind for usage in self._engine.disk_usage(keep=keep)]
        assert kinds == ["images", "containers", "layers", "blobs"]


def main(home: str, image: str, seed: str, count: str, *pulls: str) -> None:
    """Work, and print the counts of answers and what was unexpected."""
    with Engine.open(Path(home)) as engine:
        worker = Worker(engine, image, pulls, int(seed))
        worker.work(int(count))
    print(json.dumps({"answers": worker.tally.answers, "unexpected": worker.tally.unexpected}))


if __name__ == "__main__":
    main(*sys.argv[1:])
