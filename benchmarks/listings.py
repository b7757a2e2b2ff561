"""Looking at many images: a list of them, and the history of one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cellblock_engine import Engine
from support.layouts import LayoutWriter, WrittenLayer, small_tar

from .peers import Docker
from .rounds import Contestant, markdown

IMAGES, LAYERS = 200, 20
# As images of one project do, these have most of their layers in common.
COMMON = 18


def tables(stack: ExitStack, directory: Path, docker: Docker | None, rounds: int) -> str:
    """Measure and return the tables; all engines have the same images, from one archive."""
    names = [f"bench/listed:{number}" for number in range(IMAGES)]
    home, archive = directory / "store", directory / "all.tar"
    engine = stack.enter_context(Engine.open(home))
    engine.load(_layout(directory))
    engine.save(names, archive)
    if docker is not None:
        docker("load", "--input", str(archive))
    shown = []
    calls: dict[str, Callable[[Engine], object]] = {
        "images": lambda engine: engine.images(),
        "history": lambda engine: engine.history(names[-1]),
    }
    for title, call in calls.items():
        words = (title, names[-1]) if title == "history" else (title,)
        found = [
            Contestant(f"engine.{title}, an engine's first", partial(_first, call, home)),
            Contestant(f"engine.{title}, again", partial(call, engine)),
            Contestant(f"cellblock {title}, whole process", _Command(home, words)),
        ]
        if docker is not None:
            found.append(Contestant(f"docker {title}", partial(docker, *words)))
        heading = f"{title}, {IMAGES} images of {LAYERS} layers"
        shown.append(markdown(heading, found, rounds, f"docker {title}"))
    if docker is not None:
        docker("rmi", "--force", *names)
    return "\n".join(shown)


def _first(call: Callable[[Engine], object], home: Path) -> None:
    with Engine.open(home) as engine:
        call(engine)


class _Command:
    """The program, as a shell starts it."""

    def __init__(self, home: Path, words: tuple[str, ...]) -> None:
        program = Path(sys.executable).with_name("cellblock")
        self._argv = ["env", f"CELLBLOCK_HOME={home}", str(program), *words]

    def __call__(self) -> None:
        subprocess.run(self._argv, check=True, stdout=subprocess.DEVNULL)


def _layout(directory: Path) -> Path:
    """Write all images into one layout."""
    writer, file = LayoutWriter(directory / "layout"), directory / "layer.tar"

    def layer(name: str) -> WrittenLayer:
        return writer.layer(small_tar(file, {name: name.encode()}))

    common = [layer(f"common{number}") for number in range(COMMON)]
    for number in range(IMAGES):
        own = [layer(f"{part} of {number}") for part in range(LAYERS - COMMON)]
        writer.image([*common, *own], tag=f"docker.io/bench/listed:{number}")
    return writer.directory
