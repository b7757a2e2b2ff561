"""kernel install, kernel list, kernel remove."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellblock_engine import HOST_IMAGE, NETWORKS, InvalidInput

from ..tables import Column, Table
from .common import ENV, JSON, PLATFORM, each
from .declaration import Argument, Call, Verb
from .group import Group
from .limits import CPUS, MEMORY, PIDS_LIMIT
from .outcome import Acknowledged, Listing
from .run import PULL, ensure_image

if TYPE_CHECKING:
    from cellblock_kernel import InstalledSpec, KernelOptions


@dataclass(frozen=True)
class KernelRow:
    """A kernelspec of ours; limits are as they were written, None where there is none."""

    name: str
    display_name: str
    image: str
    image_id: str
    memory: str | None
    cpus: float | None
    pids_limit: int | None
    network: str
    workspace: str
    directory: Path


def install(call: Call) -> Acknowledged:
    """Install a kernelspec for the kernel in an image, which is pulled if it is missing."""
    from cellblock_kernel import install_kernel  # noqa: PLC0415 - brings jupyter_client

    said = call.arguments
    reference = said.image or HOST_IMAGE
    options, place = _options(call), _place(call)
    ensure_image(call, reference)
    spec = install_kernel(
        call.engine,
        options,
        image=reference,
        name=said.name,
        display_name=said.display_name,
        place=place,
    )
    return Acknowledged(
        (f"Installed kernel {spec.name} ({spec.display_name}) in {spec.directory}",)
    )


def list_(call: Call) -> Listing:
    """List the kernelspecs of ours that front ends see."""
    from cellblock_kernel import installed_kernels  # noqa: PLC0415 - brings jupyter_client

    table = Table(KernelRow, _COLUMNS, tuple(map(_row, installed_kernels())))
    return Listing(table, "json" if call.arguments.json else "text")


def remove(call: Call) -> Acknowledged:
    """Remove kernelspecs of ours."""
    from cellblock_kernel import remove_kernel  # noqa: PLC0415 - brings jupyter_client

    return each(call.arguments.names, lambda name: [f"Removed {remove_kernel(name)}"])


def _row(spec: InstalledSpec) -> KernelRow:
    options = spec.options
    return KernelRow(
        name=spec.name,
        display_name=spec.display_name,
        image=spec.image,
        image_id=options.image,
        memory=options.memory,
        cpus=options.cpus,
        pids_limit=options.pids_limit,
        network=options.network,
        workspace=options.workspace,
        directory=spec.directory,
    )


def _limits(row: KernelRow) -> str:
    words = (
        row.memory and f"memory {row.memory}",
        row.cpus and f"cpus {row.cpus:g}",
        row.pids_limit and f"pids {row.pids_limit}",
    )
    return ", ".join(word for word in words if word) or "none"


_COLUMNS = (
    Column("NAME", lambda row, _: row.name),
    Column("DISPLAY NAME", lambda row, _: row.display_name),
    Column("IMAGE", lambda row, _: row.image),
    Column("IMAGE ID", lambda row, view: view.identifier(row.image_id)),
    Column("LIMITS", lambda row, _: _limits(row)),
    Column("NETWORK", lambda row, _: row.network),
    Column("WORKSPACE", lambda row, _: row.workspace),
    Column("WHERE", lambda row, _: str(row.directory)),
)


def _options(call: Call) -> KernelOptions:
    from cellblock_kernel import KernelOptions  # noqa: PLC0415 - brings jupyter_client

    said = call.arguments
    for text in said.env:
        if not text.partition("=")[0]:
            raise InvalidInput(f"environment variable {text!r} is not valid: write NAME=VALUE")
    return KernelOptions(
        network=said.network or "none",
        workspace=said.workspace,
        memory=said.memory,
        cpus=said.cpus,
        pids_limit=said.pids_limit,
        volume=tuple(said.volume),
        env=tuple(said.env),
        keep=said.keep,
    )


def _place(call: Call) -> Path | Literal["user", "sys-prefix"]:
    said = call.arguments
    given = [said.user, said.sys_prefix, said.prefix is not None]
    if sum(given) > 1:
        raise InvalidInput("give one of --user, --sys-prefix and --prefix")
    if said.prefix is not None:
        return Path(said.prefix).expanduser().absolute()
    return "sys-prefix" if said.sys_prefix else "user"


_WORKSPACES = ("rw", "ro", "none")


def _workspace(text: str) -> str:
    if text not in _WORKSPACES:
        raise InvalidInput(f"workspace {text!r} is not known: use one of {', '.join(_WORKSPACES)}")
    return text


KERNEL = Group(
    "kernel",
    "Notebook kernels in containers, for JupyterLab and all other front ends",
    {
        verb.name: verb
        for verb in (
            Verb(
                "install",
                "Install a kernelspec for the kernel in an image",
                (
                    Argument(
                        ("--name",), "the kernelspec's name (from the image's)", metavar="NAME"
                    ),
                    Argument(("--display-name",), "what launchers show", metavar="TEXT"),
                    MEMORY,
                    CPUS,
                    PIDS_LIMIT,
                    Argument(
                        ("--network",),
                        "none (the default) or host, which does not isolate",
                        metavar="NETWORK",
                        values=NETWORKS,
                    ),
                    Argument(
                        ("--workspace",),
                        "the notebook's folder: rw (the default), ro or none",
                        metavar="MODE",
                        convert=_workspace,
                        default="rw",
                        values=_WORKSPACES,
                    ),
                    Argument(
                        ("-v", "--volume"),
                        "a folder more: /host/path:/inside[:ro]",
                        "each",
                        "VOLUME",
                    ),
                    ENV,
                    PULL,
                    PLATFORM,
                    Argument(("--keep",), "keep the container at a shutdown", "flag"),
                    Argument(("--user",), "install for this user (the default)", "flag"),
                    Argument(("--sys-prefix",), "install for this Python environment", "flag"),
                    Argument(("--prefix",), "install below this prefix", metavar="PATH"),
                    Argument(
                        ("image",),
                        "reference, id, or host (the default)",
                        "optional",
                        "IMAGE",
                        subject="image",
                    ),
                ),
                install,
            ),
            Verb("list", "List the kernelspecs of kernels in containers", (JSON,), list_),
            Verb(
                "remove",
                "Remove kernelspecs of kernels in containers",
                (Argument(("names",), "kernelspecs", "some", "NAME"),),
                remove,
            ),
        )
    },
)
