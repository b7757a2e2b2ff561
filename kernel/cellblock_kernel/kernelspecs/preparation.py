"""An image without ipykernel gets it: installed once in a container, kept as an image of its own.

The container is off line but for the package indexes of this machine's pip, and sees nothing of
this machine but a pip, if it has none itself, and the authorities to trust. What comes out is the
image with one layer more. That it was made of this image is noted in the store and nowhere in the
image, so an image cannot pass for a prepared one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellblock_engine import (
    Bind,
    CommitRequest,
    ContainerNotFound,
    Engine,
    Exit,
    Image,
    Limits,
    Removal,
    RunRequest,
)

from ..errors import PreparationFailed
from ..outputs.text import one_line
from .machine import Machine
from .probe import probe

RECIPE = "ipykernel 1"
"""What is done; another number for what is done differently."""
_PACKAGE = "ipykernel"
_SCRIPT = Path(__file__).parent.parent / "guest" / "installer.py"
# Below /dev, which is memory: no place for them is left behind in the image.
_PIP, _CERTIFICATES = "/dev/.cellblock/pip", "/dev/.cellblock/certificates.pem"
_MEMORY, _PIDS = "2g", 512
_TIMEOUT_S = 600.0
_MOST_OUTPUT_BYTES = 1 << 20
_MOST_SAID = 300
_NOT_FOUND = "No matching distribution found"
_UNREACHABLE = re.compile(
    r"(?:Tunnel connection failed: \d+ |(?=certificate verify failed))([^'()]+)"
)
# Wheels only: an image seldom has compilers, and pip's last line then would say nothing. Compiled,
# as every start of the kernel would do it again, in its new container (1.85 s instead of 1.1).
_SETTINGS = {
    "PIP_CONFIG_FILE": "/dev/null",
    "PIP_ONLY_BINARY": ":all:",
    "PIP_COMPILE": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_NO_INPUT": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",  # PEP 668: what the image is for, it is for this kernel
    "PIP_RETRIES": "2",
    "PIP_DEFAULT_TIMEOUT": "30",
}


@dataclass(frozen=True)
class Preparation:
    """What is being done to an image, called as the user does."""

    image: str
    phase: Literal["installing", "committing", "trying", "done"]


Progress = Callable[[Preparation], None]
"""Called in the caller's thread; what it raises ends the preparation."""


def prepare(engine: Engine, image: Image, python: str, name: str, progress: Progress) -> Image:
    """Return the image with ipykernel, made now if it is not in the store yet.

    ``python`` is the word that starts the image's Python, ``name`` what the user calls the image.
    Raises PreparationFailed, InvalidInput for indexes that no image is shown, StartFailed,
    StoreError and its kinds; nothing of the attempt is left then, nor after an interrupt.
    """
    known = engine.derived_image(image, RECIPE)
    if known is not None:
        return known
    machine = Machine.read()
    with ExitStack() as stack:
        progress(Preparation(name, "installing"))
        attached = stack.enter_context(engine.spawn(_request(engine, image, python, machine)))
        container = attached.container
        stack.callback(_remove, engine, container.id)
        _, stderr, end = attached.communicate(None, most_bytes=_MOST_OUTPUT_BYTES)
        if end.exit_code != 0 or end.verdict is not None:
            raise _failure(name, _reason(end, stderr.decode(errors="replace")))
        progress(Preparation(name, "committing"))
        made = engine.commit(
            container.id, None, CommitRequest(created_by=f"pip install {_PACKAGE}")
        )
        unfinished = stack.enter_context(ExitStack())
        unfinished.callback(engine.remove_image, str(made.id), force=True)
        progress(Preparation(name, "trying"))
        _try(engine, made, name)
        engine.note_derived(image, RECIPE, made)
        unfinished.pop_all()
    progress(Preparation(name, "done"))
    return made


def _try(engine: Engine, made: Image, name: str) -> None:
    """Raise PreparationFailed where the image's own user does not find what was installed."""
    if not probe(engine, str(made.id), Limits(), name).has_ipykernel:
        raise _failure(name, "its Python does not find it where it was installed")


def _request(engine: Engine, image: Image, python: str, machine: Machine) -> RunRequest:
    main, *more = machine.indexes
    settings = {**_SETTINGS, "PIP_INDEX_URL": main, "PIP_EXTRA_INDEX_URL": " ".join(more)}
    binds = []
    if machine.pip is not None:
        binds.append(Bind(machine.pip, _PIP))
    if machine.certificates is not None:
        binds.append(Bind(machine.certificates, _CERTIFICATES))
        settings |= {"PIP_CERT": _CERTIFICATES, "SSL_CERT_FILE": _CERTIFICATES}
    missing = engine.info().missing_limits
    borrowed = _PIP if machine.pip is not None else ""
    return RunRequest(
        image=str(image.id),
        argv=(python, "-c", _SCRIPT.read_text(), json.dumps(settings), borrowed, _PACKAGE),
        entrypoint="",
        env={"NO_PROXY": "", "no_proxy": ""},  # an index of this machine's is not in the container
        user="0",
        workdir="/",
        allow_hosts=machine.hosts,
        limits=Limits(
            memory=None if "memory" in missing else _MEMORY,
            pids=None if "pids" in missing else _PIDS,
        ),
        timeout_s=_TIMEOUT_S,
        binds=tuple(binds),
        removal=Removal.IF_ABANDONED,
    )


def _remove(engine: Engine, container: str) -> None:
    with suppress(ContainerNotFound):  # abandoned, it may have removed itself
        engine.container(container).remove(force=True)


def _reason(end: Exit, stderr: str) -> str:
    """Return why pip failed, by what it wrote."""
    if end.verdict is not None:
        return str(end.verdict).partition(";")[0]  # what follows is advice for a run
    last = (stderr.strip().splitlines() or [f"exit status {end.exit_code}"])[-1]
    # Of an index that it does not reach pip says at last that it has not found the package.
    refused = _UNREACHABLE.search(stderr if _NOT_FOUND in last else last)
    return one_line(refused[1] if refused else last, _MOST_SAID).removeprefix("ERROR: ")


def _failure(name: str, why: str) -> PreparationFailed:
    return PreparationFailed(
        f"image {name} has no ipykernel and cannot be given it: {why}; see the network and pip's "
        "configuration, or use an image that has it"
    )
