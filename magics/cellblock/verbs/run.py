"""run and exec: from words to requests, and from requests to processes."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import Literal

from cellblock_engine import (
    HOST_IMAGE,
    NETWORKS,
    ExecRequest,
    ImageNotFound,
    InvalidInput,
    Platform,
    Removal,
    RunDefaults,
    RunRequest,
    parse_seconds,
)

from .attachments import ATTACHMENTS, binds, memory
from .cell import CELL_ARGUMENTS
from .common import (
    COMMAND,
    CONTAINER,
    CONTAINERS,
    ENV,
    ENV_FILE,
    LABEL,
    PLATFORM,
    USER,
    WORKDIR,
    each,
    environment,
    labels,
)
from .declaration import Argument, Call, Verb
from .defaults import settled
from .limits import LIMITS, TIMEOUT, limits, notes
from .outcome import Acknowledged, Foreground, Outcome, Started
from .privileges import PRIVILEGES

PULL_POLICIES = ("missing", "always", "never")
PULL = Argument(
    ("--pull",),
    "pull the image first: missing (if it is not here, the default), always, never",
    metavar="WHEN",
    default="missing",
    values=PULL_POLICIES,
)


def run(call: Call) -> Outcome:
    """Run a command in a new container: in the foreground, or by itself with ``-d``."""
    request = run_request(call)
    if call.arguments.detach and not call.arguments.command:
        request = replace(request, interactive=True)  # a shell, or Python, is to wait, not to end
    if call.arguments.explain:
        return Acknowledged(call.engine.explain(request).lines())
    ensure_image(call, request.image)
    said = notes(call, request.limits)
    if call.arguments.detach:
        return Started(call.engine.start(request).id, said)
    words = ("run", request.image, *request.argv)
    stdin: Literal["caller", "empty"] = "caller" if request.interactive else "empty"
    return Foreground(lambda: call.engine.spawn(request), words, stdin, said)


def create(call: Call) -> Started:
    """Make a container that start starts; the line is its id."""
    request = run_request(call)
    ensure_image(call, request.image)
    return Started(call.engine.create(request).id, notes(call, request.limits))


def start(call: Call) -> Outcome:
    """Start containers that are there; one that runs is let alone, as Docker does."""
    names = call.arguments.containers
    if not call.arguments.attach:

        def act(name: str) -> list[str]:
            if call.engine.container(name).inspect().status != "running":
                call.engine.start(name)
            return [name]

        return each(names, act)
    if len(names) > 1:
        raise InvalidInput("-a follows one container: name one, or leave it out")
    info = call.engine.container(names[0]).inspect()
    stdin: Literal["caller", "empty"] = "caller" if info.interactive else "empty"
    return Foreground(lambda: call.engine.spawn(names[0]), ("start", names[0]), stdin)


def run_request(call: Call) -> RunRequest:
    """Return the request that the words of ``run`` make, in either of its forms.

    A cell's container is removed at its end unless it was given a name to be found by. What no
    flag says is as the settings have it. Raises InvalidInput.
    """
    given, defaults = call.arguments, call.engine.settings.run
    cell = "command" not in given
    request = RunRequest(
        image=HOST_IMAGE if given.image is None else given.image,
        argv=() if cell else tuple(given.command),
        entrypoint=None if cell else given.entrypoint,
        env=environment(call),
        workdir=given.workdir,
        user=given.user,
        hostname=given.hostname,
        network=_network(given, defaults),
        limits=limits(given),
        timeout_s=time_limit(call),
        name=given.name,
        removal=Removal.AT_END if given.rm or (cell and given.name is None) else Removal.NEVER,
        interactive=not cell and given.interactive,
        binds=binds(call),
        tmpfs=memory(call),
        read_only=given.read_only,
        shm_bytes=given.shm_size,
        storage_bytes=given.storage_limit,
        allow_hosts=tuple(given.allow_host),
        labels=labels(call),
        ulimits=tuple(given.ulimit),
        cap_add=tuple(given.cap_add),
        cap_drop=tuple(given.cap_drop),
    )
    return settled(request, defaults)


def _network(given: Namespace, defaults: RunDefaults) -> str:
    """Return the network that was asked for: --allow-host is for containers without one."""
    if given.network is not None:
        return str(given.network)
    return "none" if given.allow_host else defaults.network


def ensure_image(call: Call, name: str) -> None:
    """Pull an image as ``--pull`` and ``--platform`` say; by default, if it is not in the store.

    One that is there for another platform than was asked for is pulled anew. Raises InvalidInput,
    ImageNotFound, RegistryError and its kinds.
    """
    given = call.arguments
    if given.pull not in PULL_POLICIES:
        raise InvalidInput(f"--pull {given.pull!r} is not known: {', '.join(PULL_POLICIES)}")
    wanted = None if given.platform is None else Platform.parse(given.platform)
    if name == HOST_IMAGE:
        if wanted is not None and Platform.host().runs(wanted) is None:
            raise InvalidInput(f"the image host is of this machine's platform, not of {wanted}")
        return
    if given.pull != "always":
        try:
            there = call.engine.image(name)
        except ImageNotFound:
            if given.pull == "never":
                raise
        else:
            if wanted is None or wanted.runs(there.platform) is not None:
                return
            if given.pull == "never":
                raise ImageNotFound(
                    f"image {name} is in the store for {there.platform} only, not for {wanted}"
                )
    with call.progress() as progress:
        call.engine.pull(name, platform=given.platform, progress=progress)


def execute(call: Call) -> Foreground:
    """Run a further command in a running container."""
    given = call.arguments
    if not given.command:
        raise InvalidInput("nothing to execute: write the command after the container")
    request = exec_request(call)
    container = call.engine.container(given.container)
    return Foreground(
        lambda: container.spawn_exec(request),
        ("exec", given.container, *request.argv[:1]),
        "caller" if request.interactive else "empty",
    )


def exec_request(call: Call) -> ExecRequest:
    """Return the request that the words of ``exec`` make; of a cell, without what runs it."""
    given = call.arguments
    cell = "command" not in given
    return ExecRequest(
        argv=() if cell else tuple(given.command),
        env=environment(call),
        workdir=given.workdir,
        user=given.user,
        interactive=not cell and given.interactive,
    )


def time_limit(call: Call) -> float | None:
    """Return the seconds of ``--timeout``, None without. Raises InvalidInput."""
    given = call.arguments.timeout
    return None if given is None else parse_seconds(given)


_DETACH = Argument(
    ("-d", "--detach"), "let it run by itself and show its id", "flag", forms=("line",)
)
_EXPLAIN = Argument(
    ("--explain",), "show the plan of the start, and start nothing", "flag", forms=("line",)
)
_WHAT = (
    Argument(("--rm",), "remove the container when it has ended", "flag"),
    Argument(("-i", "--interactive"), "pass your stdin on", "flag", forms=("line",)),
    Argument(("--name",), "a name to find it by", metavar="NAME"),
    ENV,
    ENV_FILE,
    LABEL,
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
        "none (loopback only, the usual default) or host",
        metavar="NETWORK",
        values=NETWORKS,
    ),
    Argument(
        ("--allow-host",),
        "a host to reach by https all the same: pypi.org, *.example.org",
        "each",
        "HOST[:PORT]",
    ),
    *LIMITS,
    PULL,
    PLATFORM,
    TIMEOUT,
    *ATTACHMENTS,
    *PRIVILEGES,
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
)

VERBS = (
    Verb(
        "run",
        "Run a command in a new container",
        (_DETACH, _EXPLAIN, *CELL_ARGUMENTS, *_WHAT),
        run,
    ),
    Verb(
        "exec",
        "Run a further command, or a cell, in a running container",
        (
            *CELL_ARGUMENTS,
            Argument(
                ("--fresh",),
                "end the interpreter that earlier cells share, and start another",
                "flag",
                forms=("cell",),
            ),
            replace(TIMEOUT, forms=("cell",)),
            Argument(("-i", "--interactive"), "pass your stdin on", "flag", forms=("line",)),
            ENV,
            ENV_FILE,
            WORKDIR,
            USER,
            CONTAINER,
            COMMAND,
        ),
        execute,
    ),
    Verb("create", "Make a container without starting it", _WHAT, create),
    Verb(
        "start",
        "Start containers that were created or have ended",
        (
            Argument(("-a", "--attach"), "follow it (one container), as run does", "flag"),
            CONTAINERS,
        ),
        start,
    ),
)
