"""What a kernel's container is to be, as the words of the gate's command line and back.

A kernelspec's argv carries them, so that front ends that only run argv and those that know
provisioners start the same container.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NoReturn, get_args

from cellblock_engine import HOST_IMAGE, LIMITS_MODES, InvalidInput, Limits

Workspace = Literal["rw", "ro", "none"]
MODULE = "cellblock_kernel.gate"
CONNECTION_FILE = "{connection_file}"
PROVISIONED = "--provisioned"


@dataclass(frozen=True)
class KernelOptions:
    """The container of a kernel, with volumes as for ``run -v``.

    ``timeout`` is a duration, from each start on. ``env`` entries are ``NAME=VALUE``, or ``NAME``
    for what the gate's own environment says: other users can read a command line. ``keep`` leaves
    the ended container when the kernel is shut down. ``allow_host`` and ``limits``, which is
    "enforce" or "best-effort", are as for ``run``.
    """

    image: str = HOST_IMAGE
    network: str = "none"
    workspace: Workspace = "rw"
    memory: str | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    timeout: str | None = None
    volume: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    keep: bool = False
    untrusted: bool = False
    allow_host: tuple[str, ...] = ()
    limits: str | None = None

    @property
    def wanted(self) -> Limits:
        """The limits that it is to have. Raises InvalidInput."""
        return Limits(self.memory, self.cpus, self.pids_limit, mode=self.limits)

    def words(self) -> list[str]:
        """Return the words that mean this, without those that say what is so anyway."""
        words: list[str] = []
        for each in fields(self):
            value = getattr(self, each.name)
            flag = "--" + each.name.replace("_", "-")
            if value == each.default:
                continue
            if value is True:
                words.append(flag)
            elif isinstance(value, tuple):
                words += (f"{flag}={one}" for one in value)
            else:
                words.append(f"{flag}={value}")
        return words


@dataclass(frozen=True)
class GateOptions:
    """What one gate is to do; ``argv`` is the kernel's command inside.

    ``container`` is an ended one to start again; ``provisioned`` says that the standard input is
    the provisioner's socket (:mod:`.reports`).
    """

    connection_file: Path
    kernel: KernelOptions
    argv: tuple[str, ...]
    container: str | None = None
    provisioned: bool = False


@dataclass(frozen=True)
class Successor:
    """A kernel that is to take the place of one: an image, by its id or ``host``, and the command.

    The command has ``{connection_file}`` in it, as a kernelspec's.
    """

    image: str
    argv: tuple[str, ...]


def command(kernel: KernelOptions, argv: Sequence[str]) -> list[str]:
    """Return a kernelspec's argv for a kernel that is ``argv`` in such a container."""
    # -P: it starts in the notebook's folder, where an earlier kernel may have left a zmq.py.
    front = [sys.executable, "-P", "-m", MODULE, "-f", CONNECTION_FILE]
    return [*front, *kernel.words(), "--", *argv]


def parse(words: Sequence[str]) -> GateOptions:
    """Return what the words of a gate's command line mean. Raises InvalidInput."""
    try:
        at = list(words).index("--")
    except ValueError:
        raise InvalidInput("a gate needs '--' and the kernel's command after its options") from None
    parser = _Parser(prog=MODULE, allow_abbrev=False)
    parser.add_argument("-f", "--connection-file", type=Path, required=True)
    parser.add_argument("--image", default=KernelOptions.image)
    parser.add_argument("--network", default=KernelOptions.network)
    parser.add_argument("--workspace", choices=get_args(Workspace), default="rw")
    parser.add_argument("--memory")
    parser.add_argument("--cpus", type=float)
    parser.add_argument("--pids-limit", type=int)
    parser.add_argument("--limits", choices=LIMITS_MODES)
    parser.add_argument("--timeout")
    parser.add_argument("--volume", action="append", default=[])
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--untrusted", action="store_true")
    parser.add_argument("--allow-host", action="append", default=[])
    parser.add_argument("--container")
    parser.add_argument(PROVISIONED, action="store_true")
    said = vars(parser.parse_args(words[:at]))
    for several in ("volume", "env", "allow_host"):
        said[several] = tuple(said[several])
    kernel = KernelOptions(**{each.name: said[each.name] for each in fields(KernelOptions)})
    return GateOptions(
        said["connection_file"],
        kernel,
        tuple(words[at + 1 :]),
        said["container"],
        said["provisioned"],
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"the kernel's options are not understood: {message}")
