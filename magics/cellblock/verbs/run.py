"""run and exec: from words to requests, and from requests to processes."""

from __future__ import annotations

from cellblock_engine import (
    HOST_IMAGE,
    NETWORKS,
    ExecRequest,
    ImageNotFound,
    InvalidInput,
    Limits,
    RunRequest,
    parse_seconds,
)

from .common import COMMAND, CONTAINER, ENV, USER, WORKDIR, environment
from .declaration import Argument, Call, Verb
from .outcome import Foreground, Outcome, Started

_SHELL = "/bin/sh"
_MAX_SCRIPT_BYTES = 128 * 1024 - 1  # MAX_ARG_STRLEN of execve(2)


def run(call: Call) -> Outcome:
    """Run a command in a new container: in the foreground, or by itself with ``-d``."""
    request = run_request(call)
    if call.arguments.detach and request.interactive:
        raise InvalidInput("-d and -i exclude each other: nobody would hold the other end of stdin")
    ensure_image(call, request.image)
    if call.arguments.detach:
        return Started(call.engine.start(request).id)
    words = ("run", request.image, *request.argv)
    return Foreground(
        lambda: call.engine.spawn(request), words, "caller" if request.interactive else "empty"
    )


def run_request(call: Call) -> RunRequest:
    """Return the request that the words of ``run`` make, in either of its forms.

    A cell's container is removed at its end unless it was given a name to be found by. Raises
    InvalidInput.
    """
    given = call.arguments
    cell = "command" not in given
    return RunRequest(
        image=HOST_IMAGE if given.image is None else given.image,
        argv=() if cell else tuple(given.command),
        entrypoint=None if cell else given.entrypoint,
        env=environment(call),
        workdir=given.workdir,
        user=given.user,
        hostname=given.hostname,
        network=given.network,
        limits=Limits(memory=given.memory, cpus=given.cpus, pids=given.pids_limit),
        timeout_s=None if given.timeout is None else parse_seconds(given.timeout),
        name=given.name,
        remove=given.rm or (cell and given.name is None),
        interactive=not cell and given.interactive,
    )


def ensure_image(call: Call, name: str) -> None:
    """Pull an image that the store does not have, as Docker's ``run`` does."""
    if name == HOST_IMAGE:
        return
    try:
        call.engine.image(name)
    except ImageNotFound:
        with call.progress() as progress:
            call.engine.pull(name, progress=progress)


def execute(call: Call) -> Foreground:
    """Run a further command in a running container."""
    given = call.arguments
    if not given.command:
        raise InvalidInput("nothing to execute: write the command after the container")
    return _foreground(call, tuple(given.command), interactive=given.interactive)


def execute_script(call: Call, script: str) -> Foreground:
    """Run a text with the shell of a running container."""
    if len(script.encode(errors="surrogateescape")) > _MAX_SCRIPT_BYTES:
        raise InvalidInput("the cell is longer than 128 KiB, which no shell takes: split it")
    return _foreground(call, (_SHELL, "-c", script), interactive=False)


def _foreground(call: Call, argv: tuple[str, ...], *, interactive: bool) -> Foreground:
    given = call.arguments
    request = ExecRequest(
        argv=argv,
        env=environment(call),
        workdir=given.workdir,
        user=given.user,
        interactive=interactive,
    )
    container = call.engine.container(given.container)
    return Foreground(
        lambda: container.spawn_exec(request),
        ("exec", given.container, *argv[:1]),
        "caller" if interactive else "empty",
    )


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a whole number") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a number") from error


VERBS = (
    Verb(
        "run",
        "Run a command in a new container",
        (
            Argument(("--rm",), "remove the container when it has ended", "flag"),
            Argument(
                ("-d", "--detach"), "let it run by itself and show its id", "flag", forms=("line",)
            ),
            Argument(("-i", "--interactive"), "pass your stdin on", "flag", forms=("line",)),
            Argument(("--name",), "a name to find it by", metavar="NAME"),
            ENV,
            WORKDIR,
            USER,
            Argument(("-h", "--hostname"), "its host name (the start of its id)", metavar="NAME"),
            Argument(
                ("--entrypoint",),
                "instead of the image's entrypoint",
                metavar="COMMAND",
                forms=("line",),
            ),
            Argument(
                ("--network",),
                "none (loopback only, the default) or host",
                metavar="NETWORK",
                default="none",
                values=NETWORKS,
            ),
            Argument(("-m", "--memory"), "memory limit: 64m, 1.5g", metavar="SIZE"),
            Argument(("--cpus",), "processors at most: 0.5, 2", metavar="N", convert=_number),
            Argument(
                ("--pids-limit",), "processes and threads at most", metavar="N", convert=_whole
            ),
            Argument(("--timeout",), "end it after: 90, 500ms, 2m, 1h", metavar="TIME"),
            Argument(
                ("image",),
                "reference, id, or host",
                metavar="IMAGE",
                subject="image",
                forms=("line",),
            ),
            Argument(
                ("image",),
                "reference, id, or host (the default)",
                "optional",
                "IMAGE",
                subject="image",
                forms=("cell",),
            ),
            COMMAND,
        ),
        run,
    ),
    Verb(
        "exec",
        "Run a further command in a running container",
        (
            Argument(("-i", "--interactive"), "pass your stdin on", "flag", forms=("line",)),
            ENV,
            WORKDIR,
            USER,
            CONTAINER,
            COMMAND,
        ),
        execute,
    ),
)
