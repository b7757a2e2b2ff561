"""What a kernel's container is: from a kernel's options to a request to the engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cellblock_engine import Bind, InvalidInput, Limits, Removal, RunRequest, parse_volume

from .options import CONNECTION_FILE, GateOptions, KernelOptions, Successor
from .room import INSIDE, Room

# What a kernel may know of the environment of who starts it: nothing that could be a secret.
ALLOWED = tuple("LANG LANGUAGE TZ TERM COLORTERM COLUMNS LINES NO_COLOR JPY_SESSION_NAME".split())
_ALLOWED_PREFIX = "LC_"
# As where Jupyter starts it, ipykernel then does not write how to connect to it, and that Ctrl-C
# would not work; of a parent 1 it does not ask whether that still lives.
_STARTED_BY_JUPYTER = {"JPY_PARENT_PID": "1"}
LABEL = "cellblock.kernel"


def request(options: GateOptions, room: Room, env: Mapping[str, str], cwd: Path) -> RunRequest:
    """Return the container to be made, which knows of ``env``. Raises InvalidInput, NotFound."""
    kernel = options.kernel
    binds = [Bind(room.inside, INSIDE, writable=True)]
    if kernel.workspace != "none":
        binds.append(workspace(cwd, writable=kernel.workspace == "rw"))
    binds += (parse_volume(text) for text in kernel.volume)
    outer = os.path.realpath(options.connection_file)
    argv = [
        word.replace(outer, room.connection_file).replace(
            os.fspath(options.connection_file), room.connection_file
        )
        for word in options.argv
    ]
    return RunRequest(
        image=kernel.image,
        argv=tuple(argv),
        entrypoint="",
        env=env,
        user=user(),
        workdir=os.fspath(cwd) if kernel.workspace != "none" else None,
        network=kernel.network,
        limits=kernel.wanted,
        binds=tuple(binds),
        allow_hosts=kernel.allow_host,
        labels={LABEL: kernel.image},
        removal=Removal.NEVER if kernel.keep else Removal.IF_ABANDONED,
    )


def user() -> str | None:
    """Return whom a kernel runs as, None for the image's own user.

    Only root can show a folder as anybody's. For everybody else user 0 inside is the caller, and
    nobody but that could make the kernel's sockets, or write in the notebook's folder.
    """
    return None if os.geteuid() == 0 else "0"


def succession(
    options: GateOptions,
    successor: Successor,
    limits: Limits,
    room: Room,
    env: Mapping[str, str],
) -> RunRequest:
    """Return the container of a kernel that takes the place of one: all else is as it was.

    Raises InvalidInput, NotFound.
    """
    file = os.fspath(options.connection_file)
    argv = tuple(word.replace(CONNECTION_FILE, file) for word in successor.argv)
    kernel = replace(options.kernel, image=successor.image)
    wanted = request(replace(options, kernel=kernel, argv=argv), room, env, Path.cwd())
    return replace(wanted, limits=limits)


def environment(kernel: KernelOptions, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of the environment goes in, and what the kernel's options set."""
    env = _STARTED_BY_JUPYTER | {
        name: value
        for name, value in environ.items()
        if name in ALLOWED or name.startswith(_ALLOWED_PREFIX)
    }
    for text in kernel.env:
        name, given, value = text.partition("=")
        if given or name in environ:
            env[name] = value if given else environ[name]
    return env


def workspace(folder: Path, *, writable: bool) -> Bind:
    """Return the notebook's folder at its own path.

    Raises InvalidInput for a whole home, and for its hidden folders, where keys are.
    """
    home = Path.home().resolve()
    if home.is_relative_to(folder):
        what = "holds your home directory"
    elif folder.is_relative_to(home) and folder.relative_to(home).parts[0].startswith("."):
        what = "is a hidden one of your home directory"
    else:
        return Bind(folder, os.fspath(folder), writable=writable)
    raise InvalidInput(
        f"the notebook's folder {folder} {what}, which a kernel in a container is not shown: keep "
        "the notebook in a folder of its own, or install the kernel with --workspace none"
    )
