"""kernel install, list, remove: the kernelspecs of notebooks whose kernel is in a container."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellblock_engine import NETWORKS, Bind, InvalidInput, Limits, parse_seconds

from ..progress import Preparing
from ..tables import Column, Table
from .attachments import VOLUME
from .common import ENV, JSON, NO_TRUNC, PLATFORM, each, environment, style
from .declaration import Argument, Call, Verb
from .group import Group
from .limits import CPUS, LIMITS_MODE, MEMORY, PIDS_LIMIT, TIMEOUT, notes
from .outcome import Acknowledged, Listing
from .run import PULL, ensure_image

if TYPE_CHECKING:
    from cellblock_kernel import KernelOptions, Preparation

_WORKSPACES = ("rw", "ro", "none")
_COLUMNS = (
    Column("NAME", lambda row, _: row.name),
    Column("DISPLAY NAME", lambda row, _: row.display_name),
    Column("LANGUAGE", lambda row, _: row.language),
    Column("IMAGE", lambda row, _: row.image),
    Column("DIGEST", lambda row, view: view.identifier(row.digest or "")),
    Column("LIMITS", lambda row, _: row.limits),
    Column("NETWORK", lambda row, _: row.network),
    Column("WORKSPACE", lambda row, _: row.workspace),
    Column("WHERE", lambda row, _: row.where),
)


def install(call: Call) -> Acknowledged:
    """Install kernelspecs; a line for each, its name and its folder."""
    from cellblock_kernel import install_kernelspecs  # noqa: PLC0415 - jupyter_client, only now

    given, options, place = call.arguments, _options(call), _place(call)
    ensure_image(call, given.image)
    with ExitStack() as shown:
        paths = install_kernelspecs(
            call.engine,
            options,
            place,
            kernel=given.kernel,
            name=given.name,
            display_name=given.display_name,
            progress=preparing(call, shown),
        )
    lines = tuple(f"{path.name}: {path}" for path in paths)
    return Acknowledged(lines, notes=notes(call, options.wanted))


def list_(call: Call) -> Listing:
    """List the kernelspecs of cellblock that Jupyter finds."""
    from cellblock_kernel import Kernelspec, installed_kernelspecs  # noqa: PLC0415 - as above

    return Listing(Table(Kernelspec, _COLUMNS, installed_kernelspecs()), style(call))


def remove(call: Call) -> Acknowledged:
    """Remove kernelspecs of cellblock; a line for each."""
    from cellblock_kernel import remove_kernelspec  # noqa: PLC0415 - as above

    return each(call.arguments.names, lambda name: [str(remove_kernelspec(name))])


def preparing(call: Call, shown: ExitStack) -> Callable[[Preparation], None]:
    """Return what opens a display with the first step: most images need no preparation.

    ``shown`` closes it.
    """
    displays: list[Callable[[Preparation], None]] = []

    def show(step: Preparation) -> None:
        if not displays:
            displays.append(shown.enter_context(call.progress(Preparing())))
        displays[0](step)

    return show


def _options(call: Call) -> KernelOptions:
    """Return the kernel's container as the words say. Raises InvalidInput, NotFound."""
    given = call.arguments
    return replace(
        surroundings(call),
        image=given.image,
        volume=tuple(map(_written, given.volume)),
        env=tuple(f"{name}={value}" for name, value in environment(call).items()),
        keep=given.keep,
    )


def surroundings(call: Call) -> KernelOptions:
    """Return what the words let a kernel have: limits, network, workspace. Raises InvalidInput."""
    from cellblock_kernel import KernelOptions  # noqa: PLC0415 - as above

    given = call.arguments
    for flag, value, known in (
        ("--network", given.network, NETWORKS),
        ("--workspace", given.workspace, _WORKSPACES),
    ):
        if value not in known:
            raise InvalidInput(f"{flag} {value!r} is not known: use one of {', '.join(known)}")
    if given.timeout is not None:
        parse_seconds(given.timeout)
    limits = Limits(given.memory, given.cpus, given.pids_limit, mode=given.limits)
    return KernelOptions(
        network=given.network,
        workspace=given.workspace,
        memory=given.memory,
        cpus=limits.cpus,
        pids_limit=limits.pids,
        limits=given.limits,
        timeout=given.timeout,
        untrusted=given.untrusted,
    )


def _written(bind: Bind) -> str:
    return f"{bind.source}:{bind.target}" + ("" if bind.writable else ":ro")


def _place(call: Call) -> Path | Literal["user", "system"]:
    given = call.arguments
    if sum((given.user, given.sys_prefix, given.prefix is not None)) > 1:
        raise InvalidInput("--user, --sys-prefix and --prefix exclude each other: give one")
    if given.sys_prefix:
        return Path(sys.prefix)
    if given.prefix is not None:
        return Path(given.prefix).absolute()
    return "user" if given.user else "system"


NETWORK = Argument(
    ("--network",),
    "none (the default), or host, which is not isolated",
    metavar="NETWORK",
    default="none",
    values=NETWORKS,
)
WORKSPACE = Argument(
    ("--workspace",),
    "the notebook's folder inside: rw (the default), ro, none",
    metavar="HOW",
    default="rw",
    values=_WORKSPACES,
)
_INSTALL = Verb(
    "install",
    "Install the kernels of an image, to be run in containers",
    (
        Argument(
            ("--kernel",), "only this one of the image, such as python3 or ir", metavar="NAME"
        ),
        Argument(("--name",), "the kernelspec's name (cellblock-IMAGE)", metavar="NAME"),
        Argument(("--display-name",), "what launchers show", metavar="TEXT"),
        MEMORY,
        CPUS,
        PIDS_LIMIT,
        LIMITS_MODE,
        TIMEOUT,
        NETWORK,
        WORKSPACE,
        VOLUME,
        ENV,
        Argument(("--keep",), "leave the container when the kernel is shut down", "flag"),
        Argument(("--untrusted",), "show outputs that cannot act: no scripts, widgets", "flag"),
        Argument(("--user",), "for you alone (else for all users, as ipython does)", "flag"),
        Argument(("--sys-prefix",), "into this Python's prefix, a virtual environment", "flag"),
        Argument(("--prefix",), "into PATH/share/jupyter/kernels", metavar="PATH"),
        PULL,
        PLATFORM,
        Argument(("image",), "reference, id, or host", metavar="IMAGE", subject="image"),
    ),
    install,
)
_LIST = "List the kernelspecs of cellblock"
_REMOVE = "Remove kernelspecs of cellblock"
_NAMES = Argument(("names",), "kernelspecs", "some", "NAME")
KERNEL = Group(
    "kernel",
    "Notebook kernels in containers",
    {
        verb.name: verb
        for verb in (
            _INSTALL,
            Verb("list", _LIST, (NO_TRUNC, JSON), list_),
            Verb("ls", f"{_LIST} (list)", (NO_TRUNC, JSON), list_),
            Verb("remove", _REMOVE, (_NAMES,), remove),
            Verb("rm", f"{_REMOVE} (remove)", (_NAMES,), remove),
        )
    },
)
