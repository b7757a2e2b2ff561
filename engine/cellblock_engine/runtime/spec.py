"""What the caller's side tells a monitor: everything a start needs, decided and spelled out.

The monitor resolves nothing that could have been resolved before: no image names, no defaults.
Travels as JSON (:mod:`.wire`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..linux.cgroups import Limits
from ..linux.idmaps import IdMaps, Inside, single
from ..linux.userns import RANGE_SIZE
from ..removal import Removal

PROTOCOL = 5
"""Changes when engine, spawner and monitor of different versions could misunderstand each other."""

PROXY_PORT = 3128
"""Where on its loopback a container that may reach hosts finds the way to them."""


DELEGATED = "delegated"
"""What a spawner is told that systemd gave a scope for its containers' groups."""

UNASKED = "unasked"
"""What a spawner is told where systemd gives no groups, and needs to give none."""


@dataclass(frozen=True)
class OverlaySpec:
    """A copy-on-write tree at ``target``: ``lowers`` bottom first, ``upper`` holding fs and work.

    ``recursive`` lowers bring the mounts below them along.
    """

    target: str
    lowers: tuple[str, ...]
    upper: str


@dataclass(frozen=True)
class BindSpec:
    """A host file or directory at ``target``."""

    source: str
    target: str
    writable: bool


@dataclass(frozen=True)
class TmpfsSpec:
    """A file system in memory at ``target``; without a size the kernel takes half the memory."""

    target: str
    size_bytes: int | None
    mode: int


@dataclass(frozen=True)
class FileSpec:
    """A small file of the container's own at ``target``, kept in memory.

    An ``optional`` one is there only where its directory is, and cannot be written.
    """

    target: str
    text: str
    optional: bool = False


class StandIns(NamedTuple):
    """What a process is held to by itself, where no control group does it; None, () is nothing."""

    memory_bytes: int | None = None
    pids: int | None = None
    processors: tuple[int, ...] = ()


_HELD_TO_NOTHING = StandIns()


@dataclass(frozen=True)
class ProcessSpec:
    """A command. ``user`` is ``[name|uid][:group|gid]``, resolved against the container's files.

    ``capabilities`` are user 0's; ``ulimits`` are names, soft and hard limits (setrlimit(2)).
    """

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    channels: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    stand_ins: StandIns = _HELD_TO_NOTHING


@dataclass(frozen=True)
class StartSpec:
    """A container and its first command.

    ``directory`` is the container's own below the store, ``name_link`` the link that reserves
    its name, ``socket`` where its monitor listens, ``id_ranges`` the lock file of subordinate id
    ranges, or else ``id_maps`` the ids that it has. With ``read_only`` neither overlays nor
    files can be written. With ``storage_bytes`` what is written is kept in memory of that size
    instead of the uppers. ``allow_hosts`` are what it can reach by the proxy on its loopback
    (:mod:`..network.allowlist`). ``again`` says that the container was there before this start.
    """

    id: str
    directory: str
    name_link: str
    socket: str
    id_ranges: str | None
    id_maps: IdMaps | None
    hostname: str
    own_network: bool
    allow_hosts: tuple[str, ...]
    overlays: tuple[OverlaySpec, ...]
    files: tuple[FileSpec, ...]
    binds: tuple[BindSpec, ...]
    tmpfs: tuple[TmpfsSpec, ...]
    shm_bytes: int
    read_only: bool
    storage_bytes: int | None
    limits: Limits
    timeout_s: float | None
    stop_signal: int
    foreground: bool
    removal: Removal
    again: bool
    process: ProcessSpec

    @property
    def is_rootless(self) -> bool:
        """Whether an ordinary user starts it: init does what else only the host's root could."""
        return self.id_ranges is None

    @property
    def ids(self) -> Inside:
        """How many users and groups there are in it."""
        if self.id_ranges is not None:
            return Inside(RANGE_SIZE, RANGE_SIZE)
        return (self.id_maps or single()).inside

    def told(self, limits: Limits) -> Limits:
        """Return what programs are to be told: these limits, and what stands in for others."""
        memory_bytes, _, processors = self.process.stand_ins
        if memory_bytes is not None:
            limits = limits._replace(memory_bytes=memory_bytes)
        if processors:
            limits = limits._replace(cpuset_cpus=",".join(map(str, processors)))
        return limits


def dump(spec: StartSpec | ProcessSpec) -> dict[str, Any]:
    """Return the spec as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(spec, default=vars))
    return plain


def load_process(plain: dict[str, Any]) -> ProcessSpec:
    """Return the process of :func:`dump`."""
    return ProcessSpec(
        **{
            **plain,
            "argv": tuple(plain["argv"]),
            "env": tuple(plain["env"]),
            "channels": tuple(plain["channels"]),
            "capabilities": tuple(plain["capabilities"]),
            "ulimits": tuple((name, soft, hard) for name, soft, hard in plain["ulimits"]),
            "stand_ins": _load_stand_ins(*plain["stand_ins"]),
        }
    )


def _load_stand_ins(memory_bytes: int | None, pids: int | None, processors: list[int]) -> StandIns:
    return StandIns(memory_bytes, pids, tuple(processors))


def load_start(plain: dict[str, Any]) -> StartSpec:
    """Return the start of :func:`dump`."""
    return StartSpec(
        **{
            **plain,
            "allow_hosts": tuple(plain["allow_hosts"]),
            "overlays": tuple(
                OverlaySpec(o["target"], tuple(o["lowers"]), o["upper"]) for o in plain["overlays"]
            ),
            "files": tuple(FileSpec(**file) for file in plain["files"]),
            "binds": tuple(BindSpec(**bind) for bind in plain["binds"]),
            "tmpfs": tuple(TmpfsSpec(**each) for each in plain["tmpfs"]),
            "id_maps": None if plain["id_maps"] is None else IdMaps.of(plain["id_maps"]),
            "limits": Limits(*plain["limits"]),
            "removal": Removal(plain["removal"]),
            "process": load_process(plain["process"]),
        }
    )
