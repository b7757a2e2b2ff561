"""What a caller asks of containers, checked as far as words can be checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import InvalidInput
from .limits import Limits
from .privileges import Ulimit, held_capabilities
from .removal import Removal
from .store.names import is_name
from .volumes import DEFAULT_SHM_BYTES, SMALLEST_SHM_BYTES, Bind, Tmpfs, check_targets

SMALLEST_STORAGE_BYTES = 64 << 10
HOST_IMAGE = "host"
NETWORKS = ("none", "host")
Channel = Literal["in", "out"]

_HOSTNAME = re.compile(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)(\.(?!-)[a-zA-Z0-9-]{1,63}(?<!-))*")
_MAX_WORDS_BYTES = 1 << 20


@dataclass(frozen=True)
class RunRequest:
    """A container to be made and started.

    ``image`` is ``"host"``, a reference or an image id; an empty ``argv`` means the image's own
    command. ``entrypoint`` replaces the image's (``""`` removes it). ``channels`` are extra
    pipes, which the command finds as descriptors 3, 4 and so on. With ``read_only`` the image's
    tree cannot be written; ``shm_bytes`` is the size of /dev/shm; ``storage_bytes`` is how much
    can be written to the image's tree, which then is kept in memory. ``allow_hosts`` are those
    that a container without a network reaches all the same, by a proxy: ``pypi.org``,
    ``*.example.org:8443``, ``mirror.lan:8080/private`` (:mod:`.network.allowlist`). Raises
    InvalidInput.
    """

    image: str = HOST_IMAGE
    argv: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    user: str | None = None
    hostname: str | None = None
    network: str = "none"
    limits: Limits = field(default_factory=Limits)
    timeout_s: float | None = None
    name: str | None = None
    removal: Removal = Removal.NEVER
    interactive: bool = False
    binds: tuple[Bind, ...] = ()
    channels: tuple[Channel, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    tmpfs: tuple[Tmpfs, ...] = ()
    read_only: bool = False
    shm_bytes: int = DEFAULT_SHM_BYTES
    ulimits: tuple[Ulimit, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    storage_bytes: int | None = None
    allow_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be meant, before anything is made."""
        if self.name is not None and not is_name(self.name):
            raise InvalidInput(
                f"container name {self.name!r} is not valid: start with a letter or digit and use "
                "letters, digits, '_', '.', '-' only"
            )
        if self.hostname is not None and (
            len(self.hostname) > 64 or not _HOSTNAME.fullmatch(self.hostname)
        ):
            raise InvalidInput(f"hostname {self.hostname!r} is not valid: use letters, digits, '-'")
        if self.network not in NETWORKS:
            raise InvalidInput(
                f"network {self.network!r} is not known: use one of {', '.join(NETWORKS)}"
            )
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise InvalidInput(f"timeout {self.timeout_s} is not valid: give seconds above 0")
        if self.shm_bytes < SMALLEST_SHM_BYTES:
            raise InvalidInput(f"shm size {self.shm_bytes} is too small: at least 4k")
        if self.storage_bytes is not None:
            self._check_storage(self.storage_bytes)
        if self.allow_hosts:
            self._check_hosts()
        held_capabilities(self.cap_add, self.cap_drop)
        check_targets((*self.binds, *self.tmpfs))
        check_process(self.argv, self.env, self.workdir)

    def _check_hosts(self) -> None:
        from .network.allowlist import parse_allowed_host  # noqa: PLC0415 - seldom asked for

        if self.network != "none":
            raise InvalidInput(
                f"allowed hosts are for containers without a network, and --network {self.network} "
                "was asked for: leave out one of the two"
            )
        for host in self.allow_hosts:
            parse_allowed_host(host)

    def _check_storage(self, storage_bytes: int) -> None:
        if storage_bytes < SMALLEST_STORAGE_BYTES:
            raise InvalidInput(f"storage limit {storage_bytes} is too small: at least 64k")
        if self.removal is not Removal.AT_END:
            raise InvalidInput(
                "a storage limit keeps what is written in memory, where it ends with the "
                "container: give --rm as well"
            )


@dataclass(frozen=True)
class ExecRequest:
    """A further command for a running container; what is None is as its first command had it.

    An empty ``argv`` is for somebody else to replace. Raises InvalidInput.
    """

    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    user: str | None = None
    interactive: bool = False
    channels: tuple[Channel, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be meant."""
        check_process(self.argv, self.env, self.workdir)


def check_process(argv: tuple[str, ...], env: Mapping[str, str], workdir: str | None) -> None:
    """Raise InvalidInput for words that execve(2) cannot take."""
    for key, value in env.items():
        if not key or "=" in key or "\0" in key + value:
            raise InvalidInput(f"environment variable {key!r} is not valid: write NAME=VALUE")
    if any("\0" in word for word in argv):
        raise InvalidInput("the command contains a NUL character, which no program can receive")
    if sum(map(len, argv)) > _MAX_WORDS_BYTES:
        raise InvalidInput("the command is longer than 1 MiB: pass large input through stdin")
    if workdir is not None and (not workdir.startswith("/") or "\0" in workdir):
        raise InvalidInput(f"working directory {workdir!r} is not valid: give an absolute path")
