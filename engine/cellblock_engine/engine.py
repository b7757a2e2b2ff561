"""The engine: the one object callers start from. It wires the parts and does no work itself."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import assembly
from .container import (
    CAPTURE_BYTES,
    AttachedRun,
    Container,
    ContainerInfo,
    Result,
    describe,
)
from .errors import CellblockError, LimitNotEnforceable, StoreFull
from .image import Image, RemovedImage
from .layout import Layout
from .limits import Limits
from .linux import cgroups
from .oci.platform import Platform
from .oci.reference import Reference
from .progress import Progress
from .request import HOST_IMAGE, RunRequest
from .runtime import launcher
from .runtime.attached import Pipes, await_start
from .store import Store
from .store.containers import ContainerConfig, Containers


@dataclass(frozen=True)
class EngineInfo:
    """What this engine is and has.

    ``missing_limits`` names the limits that cannot be enforced here, and why.
    """

    home: Path
    run: Path
    user: int
    platform: Platform
    kernel: str
    images: int
    containers: int
    running: int
    missing_limits: Mapping[str, str]


class Engine:
    """Images and containers of one store. Safe to use from several threads and in event loops.

    Nothing runs in the background on its behalf: closing it ends nothing but its own use.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._store = Store(layout)
        self._containers = Containers(layout)
        self._started_spawner = False

    @classmethod
    def open(cls, home: Path | None = None) -> Engine:
        """Return the engine of the store at ``home``, by default the user's own.

        See :meth:`.layout.Layout.default`. Nothing is read or made before it is needed.
        """
        return cls(Layout.default(home))

    def close(self) -> None:
        """Let the store's spawner leave, if this engine started it, once no container needs it.

        Otherwise it leaves by itself, after a minute without work.
        """
        if self._started_spawner:
            launcher.dismiss(self._layout)

    def __enter__(self) -> Engine:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    # Images

    def pull(
        self, reference: str, *, platform: str | None = None, progress: Progress | None = None
    ) -> Image:
        """Fetch an image from its registry and unpack its layers; return it.

        ``platform`` is ``os/architecture[/variant]``, by default this machine's. Raises
        InvalidReference, RegistryError and its kinds, ImageNotFound, StoreError and its kinds;
        after StoreFull nothing of the image stays, unless others are using the store.
        """
        from .registry.pull import pull  # noqa: PLC0415 - brings the HTTP library

        self._store.sweep()  # what a killed pull left half done
        try:
            return pull(
                Reference.parse(reference),
                self._store,
                platform=Platform.parse(platform) if platform else None,
                progress=progress,
            )
        except StoreFull:
            with suppress(CellblockError, OSError):  # the lack of room is what is to be told
                self._store.images.collect()
            raise

    def images(self) -> tuple[Image, ...]:
        """Return the images in the store, newest first."""
        return self._store.images.list()

    def image(self, name: str) -> Image:
        """Return the image of this reference, id or unique start of an id. Raises ImageNotFound."""
        return self._store.images.resolve(name)

    def remove_image(self, name: str, *, force: bool = False) -> RemovedImage:
        """Remove a reference, and what nothing else needs of it.

        Raises ImageNotFound, and Conflict when a container uses it and not ``force``.
        """
        return self._store.images.remove(name, force=force)

    # Containers

    def run(
        self,
        image: str = HOST_IMAGE,
        argv: Sequence[str] = (),
        *,
        network: str = "none",
        limits: Limits | None = None,
        timeout: float | None = None,
        stdin: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        hostname: str | None = None,
        entrypoint: str | None = None,
        name: str | None = None,
        remove: bool = True,
    ) -> Result:
        """Run a command in a new container, wait for its end, and return its result.

        ``timeout`` is in seconds of wall-clock time. Without ``remove`` the ended container
        stays. Raises StartFailed and its kind, ImageNotFound, Conflict, InvalidInput,
        LimitNotEnforceable; how the command ended is in the result, and ``result.check()``
        raises that too.
        """
        request = RunRequest(
            image=image,
            argv=tuple(argv),
            entrypoint=entrypoint,
            env=env or {},
            workdir=workdir,
            user=user,
            hostname=hostname,
            network=network,
            limits=limits or Limits(),
            timeout_s=timeout,
            name=name,
            remove=remove,
            interactive=stdin is not None,
        )
        begun = time.monotonic()
        with self.spawn(request) as attached:
            content = stdin.encode() if isinstance(stdin, str) else stdin
            stdout, stderr, end = attached.communicate(content, most_bytes=CAPTURE_BYTES)
        duration_s = time.monotonic() - begun
        identifier = attached.container.id
        return Result(end.exit_code, stdout, stderr, end.verdict, duration_s, identifier)

    def spawn(self, request: RunRequest) -> AttachedRun:
        """Start a container and return its command with its streams; it ends with this process.

        Raises as :meth:`run` does.
        """
        pipes = Pipes(interactive=request.interactive, channels=request.channels)
        try:
            container, sock = self._launch(request, pipes.far, foreground=True)
        except BaseException:
            pipes.close()
            raise
        return AttachedRun(sock, pipes, container)

    def start(self, request: RunRequest) -> Container:
        """Start a container that outlives this process; its output goes to its log.

        Raises as :meth:`run` does.
        """
        container, sock = self._launch(request, [], foreground=False)
        with sock:
            await_start(sock)
        return container

    def containers(self) -> tuple[ContainerInfo, ...]:
        """Return all containers, running or not, the newest first."""
        found = (
            describe(config, self._containers.directory(config.id))
            for config in self._containers.list()
        )
        return tuple(sorted(found, key=lambda info: info.created_at, reverse=True))

    def container(self, name: str) -> Container:
        """Return the container of this name, id or unique start of an id.

        Raises ContainerNotFound, Conflict.
        """
        return self._held(self._containers.find(name))

    def info(self) -> EngineInfo:
        """Return what this engine is and has."""
        containers = self.containers()
        return EngineInfo(
            home=self._layout.home,
            run=self._layout.run,
            user=os.geteuid(),
            platform=Platform.host(),
            kernel=os.uname().release,
            images=len(self.images()),
            containers=len(containers),
            running=sum(info.status == "running" for info in containers),
            missing_limits=cgroups.discover(os.getpid()).missing(),
        )

    def _launch(
        self, request: RunRequest, streams: list[tuple[str, int]], *, foreground: bool
    ) -> tuple[Container, socket.socket]:
        self._refuse_unenforceable(request.limits)
        with self._store.referencing():
            base = assembly.find_base(self._layout, self._store, request.image)
            identifier, name = self._containers.reserve(request.name)
            try:
                config = assembly.configure(request, base, identifier, name)
                tops = [tree.lowers[-1] for tree in base.trees]
                directory = self._containers.create(config, tops)
            except BaseException:
                self._containers.release(name)
                raise
        try:
            spec = assembly.start_spec(
                self._layout, config, base, directory, request, foreground=foreground
            )
            launched = launcher.launch(self._layout, spec, streams)
        except BaseException:
            self._containers.remove(config)
            raise
        self._started_spawner |= launched.started_spawner
        return self._held(config), launched.sock

    def _refuse_unenforceable(self, limits: Limits) -> None:
        processors = os.cpu_count()
        if limits.cpus is not None and processors is not None and limits.cpus > processors:
            raise LimitNotEnforceable(
                f"cpus limit {limits.cpus:g} is more than the {processors} "
                f"processor{'s' * (processors != 1)} of this machine"
            )
        wanted = cgroups.Limits(limits.memory_bytes, limits.cpus, limits.pids)
        if limits and (reason := cgroups.discover(os.getpid()).refused(wanted)):
            raise LimitNotEnforceable(reason)

    def _held(self, config: ContainerConfig) -> Container:
        return Container(self._layout, self._containers, config)
