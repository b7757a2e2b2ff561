"""What is known of a container at one moment: from its directory to what callers look at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from . import enforcement
from .layout import Layout
from .limits import Limits
from .oci.digest import Digest
from .privileges import Ulimit
from .runtime import state
from .runtime.verdicts import verdict_of
from .store.containers import ContainerConfig
from .volumes import DEFAULT_SHM_BYTES, Bind, Tmpfs


@dataclass(frozen=True)
class ContainerInfo:
    """What is known of a container at one moment; ``pid`` is its command's, as the host counts.

    ``committed`` is the id of the last image that was made of it, if that is in the store.
    ``replaced_limits`` says what stands in for limits that no control group enforces, by name.
    """

    id: str
    name: str
    image: str
    image_id: str | None
    argv: tuple[str, ...]
    status: Literal["created", "running", "exited"]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    verdict: str | None
    pid: int | None
    network: str
    hostname: str
    user: str
    workdir: str
    limits: Limits
    timeout_s: float | None
    labels: Mapping[str, str]
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    read_only: bool = False
    shm_bytes: int = DEFAULT_SHM_BYTES
    ulimits: tuple[Ulimit, ...] = ()
    capabilities: tuple[str, ...] = ()
    interactive: bool = False
    storage_bytes: int | None = None
    allow_hosts: tuple[str, ...] = ()
    committed: Digest | None = None
    replaced_limits: Mapping[str, str] = field(default_factory=dict)


def describe(layout: Layout, config: ContainerConfig, directory: Path) -> ContainerInfo:
    """Return what the container's directory says."""
    now = state.read(os.fspath(directory))
    verdict = verdict_of(now.verdict)
    return ContainerInfo(
        id=config.id,
        name=config.name,
        image=config.image,
        image_id=config.image_id,
        argv=config.argv,
        status=now.status,
        created_at=moment(config.created_at),
        started_at=moment(now.started_at) if now.started_at is not None else None,
        finished_at=moment(now.finished_at) if now.finished_at is not None else None,
        exit_code=now.exit_code,
        verdict=str(verdict) if verdict else None,
        pid=now.pid,
        network=config.network,
        hostname=config.hostname,
        user=config.user,
        workdir=config.workdir,
        limits=config.limits,
        timeout_s=config.timeout_s,
        labels=config.labels,
        binds=config.binds,
        tmpfs=config.tmpfs,
        read_only=config.read_only,
        shm_bytes=config.shm_bytes,
        ulimits=config.ulimits,
        capabilities=config.capabilities,
        interactive=config.interactive,
        storage_bytes=config.storage_bytes,
        allow_hosts=config.allow_hosts,
        committed=_committed(layout, directory),
        replaced_limits=enforcement.told(config.limits, config.replaced_limits),
    )


def _committed(layout: Layout, directory: Path) -> Digest | None:
    from .store import commitnote  # noqa: PLC0415 - not for a start

    image = commitnote.last_image(directory)
    return image.id if image and (layout.blobs / image.id.hex).is_file() else None


def moment(seconds: float) -> datetime:
    """Return a time of the system's clock, in seconds, as one that knows its zone."""
    return datetime.fromtimestamp(seconds, UTC)
