"""Commits, tags, removals, prunings and runs, beside another process that does the same.

``python -m support.crowd HOME IMAGE SEED SECONDS``. Each has a container name of its own; names of
images are shared. What it may be answered is that the other was faster; anything else, and any
image that is not all of what was committed, is reported in the last line, a JSON document.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cellblock_engine import Conflict, ContainerNotFound, Engine, ImageNotFound, RunRequest

from .tally import Tally

NAMES = tuple(f"mine/shared{number}" for number in range(3))
FASTER = (Conflict, ContainerNotFound, ImageNotFound)
# Two files of one number: an image that has one of them, or two numbers, is not what was committed.
WRITE = "echo {number} > /srv/one; echo {number} > /srv/other"
SHOW = ("sh", "-c", "cat /srv/one /srv/other")


class Member:
    """One process of the crowd."""

    def __init__(self, engine: Engine, image: str, seed: int) -> None:
        self._engine, self._image, self._seed = engine, image, seed
        self._keep = (engine.image(image).id,)
        self._random = random.Random(seed)
        self._number = 0
        self.tally = Tally(FASTER)

    def work(self, seconds: float) -> None:
        """Do one thing after the other."""
        operations: tuple[Callable[[], object], ...] = (
            *(self.run, self.commit, self.commit, self.run_committed, self.run_committed),
            *(self.tag, self.tag, self.remove_tag, self.list, self.prune, self.prune_all),
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.tally.attempt(self._random.choice(operations))

    def run(self) -> None:
        """Run the image that stays."""
        assert self._engine.run(self._image, ["echo", "1"]).stdout == b"1\n"

    def commit(self) -> None:
        """Make an image of a container that has ended, or runs, under a shared name; run it."""
        self._number += 1
        number = f"{self._seed}{self._number:06}"
        running = self._random.random() < 0.5
        argv = ("sh", "-ec", WRITE.format(number=number) + "; exec sleep 60" * running)
        request = RunRequest(image=self._image, argv=argv, name=f"box{self._seed}")
        container = self._engine.start(request)
        try:
            if running:
                deadline = time.monotonic() + 20
                while container.exec([*SHOW]).stdout.split() != [number.encode()] * 2:
                    assert time.monotonic() < deadline
            else:
                container.wait(20)
            image = self._engine.commit(container.id, self._random.choice(NAMES))
            shown = self._engine.run(str(image.id), SHOW).stdout.split()
            assert shown == [number.encode()] * 2, (number, shown)
        finally:
            with suppress(ContainerNotFound):  # pruned
                container.remove(force=True)

    def run_committed(self) -> None:
        """Run what a shared name means just now: whole, whosever it is."""
        done = self._engine.run(self._random.choice(NAMES), SHOW)
        numbers = done.stdout.split()
        assert len(numbers) == 2, done
        assert numbers[0] == numbers[1], done

    def tag(self) -> None:
        """Let a shared name mean what another does."""
        self._engine.tag(*self._random.choices(NAMES, k=2))

    def remove_tag(self) -> None:
        """Remove a shared name."""
        self._engine.remove_image(self._random.choice(NAMES))

    def list(self) -> None:
        """Look at all there is."""
        assert self._image in {str(r) for i in self._engine.images() for r in i.references}
        assert len(self._engine.history(self._random.choice(NAMES))) >= 2

    def prune(self) -> None:
        """Remove what has ended, and images without a name."""
        self._engine.prune()

    def prune_all(self) -> None:
        """Remove all but the image that stays."""
        self._engine.prune(images="used", keep=self._keep)


def main(home: str, image: str, seed: str, seconds: str) -> None:
    """Work, and print the counts of answers and what was unexpected."""
    with Engine.open(Path(home)) as engine:
        member = Member(engine, image, int(seed))
        member.work(float(seconds))
    print(json.dumps({"answers": member.tally.answers, "unexpected": member.tally.unexpected}))


if __name__ == "__main__":
    main(*sys.argv[1:])
