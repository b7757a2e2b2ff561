"""Starts kernels in containers for jupyter_client: a gate process for each (:mod:`.gate`)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import LocalProvisioner

from .gate.options import MODULE, KernelOptions, command
from .gate.reports import KILL, Report
from .gate.room import PORTS, Room

_START_S = 10.0


class CellblockProvisioner(LocalProvisioner):
    """The process of this provisioner is a kernel's gate; the kernel's life is the gate's."""

    _room: Room | None = None
    _container: str | None = None
    _words: socket.socket | None = None
    _restarting = False

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Place the kernel's sockets; called by ``KernelManager.pre_start_kernel()``."""
        km = self.parent
        if self._room is None:
            self._room = Room.make(_kernels())
        if km is not None:
            km.transport, km.ip, km.cache_ports = "ipc", self._room.front_ip, False
            for name, port in PORTS.items():
                setattr(km, f"{name}_port", port)
        return await super().pre_launch(**kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the gate and wait for its report; called by ``KernelManager.launch_kernel()``."""
        cmd = self._gate_command(cmd, kwargs)
        ours, theirs = socket.socketpair()
        with theirs:
            info = await super().launch_kernel(cmd, stdin=theirs.fileno(), **kwargs)
        self._words = ours
        ours.setblocking(False)
        report = await self._report(ours)
        if report.failure is not None:
            await self.wait()
            await self.cleanup()
            raise RuntimeError(report.failure)
        self._container = report.container
        return info

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel alone; called by ``KernelManager.signal_kernel()``."""
        if signum == signal.SIGKILL:
            await self.kill()
        elif self.process is not None:
            self.process.send_signal(signum)

    async def kill(self, restart: bool = False) -> None:  # noqa: ARG002, FBT
        """End the kernel at once; called by ``KernelManager.kill_kernel()``."""
        if self._words is not None:
            try:
                self._words.send(KILL)
            except OSError:
                pass

    async def cleanup(self, restart: bool = False) -> None:  # noqa: FBT
        """Remove container and sockets, unless a restart follows."""
        if not restart:
            if self._container is not None:
                await asyncio.to_thread(_remove, self._container)
                self._container = None
            if self._room is not None:
                self._room.remove()
                self._room = None
        await super().cleanup(restart=restart)

    def _gate_command(self, cmd: list[str], kwargs: dict[str, Any]) -> list[str]:
        if MODULE not in cmd:
            connection_file = os.path.realpath(self.parent.connection_file)
            cmd = [
                connection_file if word == "{connection_file}" else word
                for word in command(KernelOptions(), cmd)
            ]
        at = cmd.index(MODULE) + 1
        more = ["--provisioned"]
        if self._container is not None:
            more.append(f"--container={self._container}")
        return [*cmd[:at], *more, *cmd[at:]]

    async def _report(self, sock: socket.socket) -> Report:
        loop = asyncio.get_running_loop()
        line = await asyncio.wait_for(loop.sock_recv(sock, 1 << 16), _START_S)
        if not line:
            return Report(failure="the gate ended without a word; see the server's log")
        return Report.decode(line)


def _kernels() -> Path:
    from cellblock_engine import Engine

    with Engine.open() as engine:
        return engine.kernels


def _remove(container: str) -> None:
    from cellblock_engine import ContainerNotFound, Engine

    with Engine.open() as engine:
        try:
            engine.container(container).remove(force=True)
        except ContainerNotFound:
            pass
