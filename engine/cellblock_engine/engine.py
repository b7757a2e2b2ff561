"""The engine: the one object callers start from. It wires the parts and does no work itself."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import assembly, enforcement
from .container import CAPTURE_BYTES, AttachedRun, Container, Result
from .errors import CellblockError, Conflict, InvalidInput
from .inventory import Inventory
from .layout import Layout
from .limits import Limits
from .linux import cgroups
from .log import Log
from .oci.platform import Platform
from .private import make_runtime_directory
from .removal import Removal
from .request import HOST_IMAGE, Channel, RunRequest
from .runtime import launcher, state
from .runtime.attached import Pipes, await_start
from .runtime.streams import INWARD, pipe_for_container
from .settings import Settings
from .store import formats
from .store.containers import ContainerConfig

if TYPE_CHECKING:
    from .doctor import Diagnosis
    from .explanation import Explanation
    from .reset import Reset

_NO_ID = "0" * 64
_log = Log(__name__)
_Made = tuple[ContainerConfig, tuple[assembly.Tree, ...], Path]


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


class Engine(Inventory):
    """Images and containers of one store. Safe to use from several threads and in event loops.

    Nothing runs in the background on its behalf: closing it ends nothing but its own use.
    """

    def __init__(self, layout: Layout, settings: Settings | None = None) -> None:
        super().__init__(layout, settings)
        self._started_spawner = False

    @classmethod
    def open(cls, home: Path | None = None) -> Engine:
        """Return the engine of the store at ``home``, by default the user's own.

        See :meth:`.layout.Layout.default` and :class:`.settings.Settings`. Beyond the config
        file nothing is read or made before it is needed; first of all then, a store of an older
        format is migrated, and one of a newer refused (StoreError). Raises InvalidInput for a
        config file or variable that is not understood.
        """
        if home is not None:
            return cls(Layout.default(home))
        settings = Settings.load()
        return cls(Layout.default(settings.home), settings)

    def kernel_sockets(self) -> Path:
        """Return the private directory for the sockets of notebook kernels, made if need be.

        Parts of it may be shown in containers. Raises OSError, StartFailed.
        """
        make_runtime_directory(self._layout.kernels)
        return self._layout.kernels

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
            removal=Removal.AT_END if remove else Removal.NEVER,
            interactive=stdin is not None,
        )
        begun = time.monotonic()
        with self.spawn(request) as attached:
            content = stdin.encode() if isinstance(stdin, str) else stdin
            stdout, stderr, end = attached.communicate(content, most_bytes=CAPTURE_BYTES)
        duration_s = time.monotonic() - begun
        identifier = attached.container.id
        return Result(end.exit_code, stdout, stderr, end.verdict, duration_s, identifier)

    def create(self, request: RunRequest) -> Container:
        """Make a container without starting it; :meth:`start` or :meth:`spawn` does, by its name.

        Raises as :meth:`run` does, but StartFailed.
        """
        if request.channels:
            raise InvalidInput("channels are for a command that starts at once: use spawn")
        config, _, directory = self._make(request)
        state.write(os.fspath(directory), state.State())
        return self._held(config)

    def spawn(
        self, request: RunRequest | str, *, env: Mapping[str, str] | None = None
    ) -> AttachedRun:
        """Start a container and return its command with its streams; it ends with this process.

        A name, id or unique start of an id is that of a container that was created or has ended;
        ``env`` then is added, for this time, to the environment that it was made with.
        Raises as :meth:`run` does.
        """
        wanted = request if isinstance(request, RunRequest) else self._again(request, env or {})
        channels = wanted.channels if isinstance(wanted, RunRequest) else ()
        pipes = Pipes(interactive=wanted.interactive, channels=channels)
        try:
            container, sock = self._launch(wanted, pipes.far, foreground=True)
        except BaseException:
            pipes.close()
            raise
        return AttachedRun(sock, pipes, container)

    def start(self, request: RunRequest | str) -> Container:
        """Start a container that outlives this process; its output goes to its log.

        A name, id or unique start of an id is that of a container that was created or has ended:
        what was written in it is still there, and its log goes on. The standard input of an
        ``interactive`` one stays open, though nothing comes: a shell waits there for as long as
        it is let. Raises as :meth:`run` does.
        """
        wanted = request if isinstance(request, RunRequest) else self._containers.find(request)
        with ExitStack() as sent:
            streams = _silence(sent) if wanted.interactive else []
            container, sock = self._launch(wanted, streams, foreground=False)
        with sock:
            await_start(sock)
        return container

    def explain(self, request: RunRequest) -> Explanation:
        """Return the plan of a start, without making or starting anything.

        Raises as :meth:`run` does, but StartFailed.
        """
        from .explanation import explain  # noqa: PLC0415 - starts do without it

        replaced = enforcement.decide(request.limits)
        request = replace(request, binds=assembly.found_binds(self._layout, request.binds))
        with self._store.referencing():
            base = assembly.find_base(self._layout, self._store, request.image)
            config = assembly.configure(request, base, _NO_ID, request.name or "unnamed", replaced)
        spec = assembly.start_spec(
            self._layout,
            config,
            base.trees,
            self._containers.directory(_NO_ID),
            request.channels,
            foreground=True,
            again=False,
        )
        replaced_now = enforcement.told(config.limits, replaced)
        return explain(spec, request.image, cgroups.discover(os.getpid()), replaced_now)

    def replaced_limits(self, limits: Limits) -> Mapping[str, str]:
        """Return what would stand in for those of ``limits`` that cannot be enforced, by name.

        Empty but with ``mode="best-effort"``. Raises LimitNotEnforceable, InvalidInput.
        """
        return enforcement.told(limits, enforcement.decide(limits))

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

    def reset(self, *, force: bool = False) -> Reset:
        """Remove all images and containers, and the store itself; return what that was.

        With ``force`` running containers are ended. Credentials and the config file stay. Raises
        StoreError for a directory that does not look like a store, Conflict for running
        containers, and while the store is in use.
        """
        from .reset import reset  # noqa: PLC0415 - asked for seldom

        return reset(self._layout, force=force)

    def doctor(self, *, repair: bool = False, quick: bool = False) -> Diagnosis:
        """Return what this machine offers to this user, and what is wrong in the store.

        Every rung is tried, which takes some tenths of a second, and every blob and layer is read
        and compared, which takes longer the more there are; ``quick`` leaves that out. With
        ``repair`` what is stale is swept and what is damaged mended; nothing else changes
        anything. Raises StoreError, Conflict for a store that is in use, OSError, Unsupported.
        """
        from .doctor import diagnose  # noqa: PLC0415 - asked for seldom

        if repair:
            formats.restore(self._layout)
        return diagnose(self._layout, self._store, repair=repair, quick=quick)

    def _launch(
        self,
        wanted: RunRequest | ContainerConfig,
        streams: list[tuple[str, int]],
        *,
        foreground: bool,
    ) -> tuple[Container, socket.socket]:
        again = isinstance(wanted, ContainerConfig)
        channels: tuple[Channel, ...] = ()
        if isinstance(wanted, RunRequest):
            config, trees, directory = self._make(wanted)
            channels = wanted.channels
        else:
            config, trees, directory = self._found(wanted)
        try:
            spec = assembly.start_spec(
                self._layout, config, trees, directory, channels, foreground=foreground, again=again
            )
            launched = launcher.launch(self._layout, spec, streams)
        except BaseException:
            if not again:
                # Interrupted, a start may still go on. Its own failure is what is to be told.
                with suppress(CellblockError):
                    self._held(config).remove(force=True)
            raise
        self._started_spawner |= launched.started_spawner
        _log.debug(
            "started container %s (%s) of %s, network %s%s",
            config.id[:12],
            config.name,
            config.image,
            config.network,
            ", with a new spawner" if launched.started_spawner else "",
        )
        return self._held(config), launched.sock

    def _again(self, name: str, env: Mapping[str, str]) -> ContainerConfig:
        config = self._containers.find(name)
        return replace(config, env=assembly.merged(config.env, env))

    def _make(self, request: RunRequest) -> _Made:
        replaced = enforcement.decide(request.limits)
        request = replace(request, binds=assembly.found_binds(self._layout, request.binds))
        with self._store.referencing():
            base = assembly.find_base(self._layout, self._store, request.image)
            identifier, name = self._containers.reserve(request.name)
            try:
                config = assembly.configure(request, base, identifier, name, replaced)
                tops = [tree.lowers[-1] for tree in base.trees]
                directory = self._containers.create(config, tops)
            except BaseException:
                self._containers.release(name)
                raise
        return config, base.trees, directory

    def _found(self, config: ContainerConfig) -> _Made:
        """Return what a container that is there is made of, if it can be started."""
        directory = self._containers.directory(config.id)
        if state.read(os.fspath(directory)).status == "running":
            raise Conflict(f"container {config.name} is running already")
        if config.unknown:  # any of them may have been meant to confine it
            raise Conflict(
                f"container {config.name} was made by a newer cellblock with settings unknown here "
                f"({', '.join(config.unknown)}): start it with that version, or make it anew"
            )
        enforcement.refuse_unenforceable(config.limits, config.replaced_limits)
        assembly.refuse_moved(self._layout, config)
        with self._store.referencing():
            trees = assembly.find_trees(self._layout, self._store, config)
        return config, trees, directory


def _silence(stack: ExitStack) -> list[tuple[str, int]]:
    """Return an input that never ends: the monitor holds the other end for as long as it lives."""
    read_end, write_end = pipe_for_container(INWARD)
    stack.callback(os.close, read_end)
    stack.callback(os.close, write_end)
    return [("stdin", read_end), ("silence", write_end)]
