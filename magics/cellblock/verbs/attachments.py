"""Flags of run that attach something beside the image: binds, memory, read-only roots."""

from __future__ import annotations

from cellblock_engine import Bind, Tmpfs, parse_bytes, parse_mount, parse_tmpfs, parse_volume

from .declaration import Argument, Call

VOLUME = Argument(
    ("-v", "--volume"),
    "bind a file or folder of this machine",
    "each",
    "SOURCE:TARGET[:ro]",
    convert=parse_volume,
)
ATTACHMENTS = (
    VOLUME,
    Argument(
        ("--mount",),
        "type=bind,source=DIR,target=DIR[,readonly], or type=tmpfs,target=DIR[,tmpfs-size=64m]",
        "each",
        "TYPE,...",
        convert=parse_mount,
    ),
    Argument(
        ("--tmpfs",),
        "a file system in memory: /scratch:size=64m",
        "each",
        "TARGET[:OPTIONS]",
        convert=parse_tmpfs,
    ),
    Argument(("--read-only",), "the image's tree cannot be written", "flag"),
    Argument(
        ("--storage-limit",),
        "how much can be written to the image's tree, in memory (with --rm)",
        metavar="SIZE",
        convert=lambda text: parse_bytes(text, "storage limit"),
    ),
    Argument(
        ("--shm-size",),
        "size of /dev/shm (64m)",
        metavar="SIZE",
        convert=lambda text: parse_bytes(text, "shm size"),
        default=64 << 20,
    ),
)


def binds(call: Call) -> tuple[Bind, ...]:
    """Return what -v and --mount bind."""
    given = call.arguments
    return (*given.volume, *(each for each in given.mount if isinstance(each, Bind)))


def memory(call: Call) -> tuple[Tmpfs, ...]:
    """Return the file systems in memory of --tmpfs and --mount."""
    given = call.arguments
    return (*given.tmpfs, *(each for each in given.mount if isinstance(each, Tmpfs)))
