"""What it takes to pull the same image from the same registry into an empty store."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from cellblock_engine import Engine

from .peers import Docker
from .rounds import Contestant


def contestants(directory: Path, image: str, docker: Docker | None) -> list[Contestant]:
    """Return everything that can pull here."""
    found = [_cellblock(directory / "pulls", image)]
    if docker is not None:

        def forget() -> None:
            with suppress(subprocess.CalledProcessError):  # there is none before the first pull
                docker("rmi", "--force", image)

        found.append(Contestant("docker pull", lambda: docker("pull", image), forget))
    return found


def _cellblock(directory: Path, image: str) -> Contestant:
    homes: Iterator[Path] = (directory / str(number) for number in count())
    home = next(homes)

    def prepare() -> None:
        nonlocal home
        shutil.rmtree(home, ignore_errors=True)
        home = next(homes)

    def pull() -> None:
        with Engine.open(home) as engine:
            engine.pull(image)

    return Contestant("engine.pull", pull, prepare)
