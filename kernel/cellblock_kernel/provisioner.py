"""Starts kernels in containers for jupyter_client: the process it knows is the kernel's gate.

Found by the entry point ``cellblock`` of the group ``jupyter_client.kernel_provisioners``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from cellblock_engine import ContainerNotFound, Engine, Settings

from .gate import room
from .gate.options import CONNECTION_FILE, MODULE, PROVISIONED, KernelOptions, command
from .gate.reports import KILL, MAX_REPORT_BYTES, SWAP, Report, word
from .process import AdoptedProcess

_Result = TypeVar("_Result")

_READY_S = 10.0
_SWAPPED_S = 90.0
_KILLED_S = 3.0
_TICK_S = 0.02


class CellblockProvisioner(LocalProvisioner):
    """One kernel: its gate process, its container, its room of sockets.

    The kernel's life is the gate's; container and room outlive it for a restart.
    """

    _room: room.Room | None = None
    _container: str | None = None
    _words: socket.socket | None = None
    _said = b""
    _keep = False
    _listens = False

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - its base's
        """Place the sockets and complete the command and the environment.

        Called by ``KernelManager.pre_start_kernel()``, also before a restart. Raises
        CellblockError, OSError.
        """
        if self.process is not None and self.process.poll() is None:
            await self.kill()  # one that is started twice has one container
            await self.wait()
        km = self.parent
        own = self._room is None
        if self._room is None or not self._room.path.exists():
            self._room = await _beside(_new_room)
        if km is not None:
            km.transport, km.ip, km.cache_ports = "ipc", self._room.front_ip, False
            for name, port in room.PORTS.items():
                setattr(km, f"{name}_port", port)
        given = kwargs.get("env")
        try:
            kwargs = await super().pre_launch(**kwargs)
            kwargs["cmd"] = self._gate_command(kwargs["cmd"], self._explicit(given))
        except BaseException:
            if own:
                await self.cleanup()
            raise
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:  # noqa: ANN401 - its base's
        """Start the gate, and wait until the kernel can be talked to, or for some seconds.

        Called by ``KernelManager.launch_kernel()``. Raises RuntimeError with one line for a
        kernel that does not start; nothing is left of it then.
        """
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        self._words, self._said = ours, b""
        self._listens = False
        try:
            with theirs:
                info = await super().launch_kernel(cmd, **{**kwargs, "stdin": theirs})
            await self._await_ready(ours)
        except BaseException:
            await self._give_up()
            raise
        return info

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's own process, through its gate.

        Called by ``KernelManager.signal_kernel()``, and for interrupts.
        """
        if signum == signal.SIGKILL:
            await self.kill()
        elif signum == signal.SIGINT and not self._listens:
            return  # a gate that starts would die of it, and no cell runs that it could be for
        elif self.process is not None:
            self.process.send_signal(signum)

    async def kill(self, restart: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - its base's
        """End the kernel at once; its container stays until :meth:`cleanup`.

        Called by ``KernelManager.kill_kernel()``. A gate that does not answer is killed, which
        takes its container along.
        """
        if self.process is None:
            return
        if self._words is not None:
            with suppress(OSError):
                self._words.send(word(KILL))
            for _ in range(int(_KILLED_S / _TICK_S)):
                if self.process.poll() is not None:
                    return
                await asyncio.sleep(_TICK_S)
        with suppress(ProcessLookupError):
            self.process.kill()

    async def swap(self, container: str) -> None:
        """Let the kernel of a container that was made for this room take this one's place.

        Front ends keep their sockets, and what they wait for is answered. Called by what restores
        containers. Raises RuntimeError with one line where that kernel does not start; then the
        one that ran still does.
        """
        sock = self._words
        if sock is None:
            raise RuntimeError("only the process that started a kernel can swap its container")
        self._catch_up()
        await asyncio.get_running_loop().sock_sendall(sock, word(SWAP, container))
        try:
            async with asyncio.timeout(_SWAPPED_S):
                await self._await_report(sock, container)
        except TimeoutError:
            raise RuntimeError(
                f"the kernel's container was not swapped within {_SWAPPED_S:g} s"
            ) from None

    async def cleanup(self, restart: bool = False) -> None:  # noqa: FBT001, FBT002 - its base's
        """Remove container and room, unless a restart follows.

        Called by ``KernelManager.cleanup_resources()``, when the gate has ended.
        """
        self._catch_up()
        if self._words is not None:
            self._words.close()
            self._words = None
        if not restart:
            if self._container is not None and not self._keep:
                await _beside(partial(_remove, self._container))
            self._container = None
            if self._room is not None:
                self._room.remove()
                self._room = None
        await super().cleanup(restart=restart)

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what another process needs to take this kernel over.

        Called by applications that persist kernels, through ``KernelManager.provisioner``.
        """
        self._catch_up()
        info: dict[str, Any] = await super().get_provisioner_info()
        return info | {
            "container": self._container,
            "room": str(self._room.path) if self._room is not None else None,
            "process": AdoptedProcess.identity(self.pid) if self.pid else None,
        }

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Take over the kernel that :meth:`get_provisioner_info` told of.

        The gate still ends with the process that started it. Called as its inverse is.
        """
        await super().load_provisioner_info(provisioner_info)
        self._container = provisioner_info["container"]
        self._listens = True
        if provisioner_info["room"] is not None:
            self._room = room.Room.found(provisioner_info["room"])
        if provisioner_info["process"] is not None:
            self.process = cast("Any", AdoptedProcess(provisioner_info["process"]))

    async def _give_up(self) -> None:
        """Leave nothing of a kernel that did not start."""
        try:
            async with asyncio.timeout(_KILLED_S):
                await self.wait()
        except TimeoutError:
            await self.kill()
            await self.wait()
        await self.cleanup()
        if self.parent is not None:
            self.parent.cleanup_connection_file()

    def _gate_command(self, cmd: list[str], env: list[str]) -> list[str]:
        """Return the gate's command: a kernelspec's own, or one round that of another spec."""
        if MODULE not in cmd:
            km = self.parent
            file = os.path.realpath(km.connection_file) if km is not None else CONNECTION_FILE
            given = Settings.load().kernel
            wrapped = command(KernelOptions(volume=given.volumes, env=given.env), cmd)
            cmd = [file if word == CONNECTION_FILE else word for word in wrapped]
        at = cmd.index(MODULE) + 1
        self._keep = "--keep" in cmd[: cmd.index("--")]
        again = [f"--container={self._container}"] if self._container is not None else []
        return [*cmd[:at], PROVISIONED, *again, *env, *cmd[at:]]

    def _explicit(self, given: dict[str, str] | None) -> list[str]:
        """Return options for what the kernelspec, or the caller beyond its own environment, set.

        By name only: the gate has the values in its environment, which others cannot read.
        """
        names = set(self.kernel_spec.env if self.kernel_spec is not None else ())
        if given is not None:
            names |= {name for name, value in given.items() if os.environ.get(name) != value}
        names -= {"JPY_PARENT_PID"}
        return [f"--env={name}" for name in sorted(names)]

    async def _await_ready(self, sock: socket.socket) -> None:
        """Return when the kernel has started, or may yet. Raises RuntimeError if it does not."""
        try:
            async with asyncio.timeout(_READY_S):
                await self._await_report(sock)
        except TimeoutError:
            if self._container is None:
                raise RuntimeError(
                    f"the kernel's container did not start within {_READY_S:g} s"
                ) from None

    async def _await_report(self, sock: socket.socket, container: str | None = None) -> None:
        """Return when a kernel is ready, in ``container`` if that is given.

        Raises RuntimeError when none will be.
        """
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(sock, MAX_REPORT_BYTES):
            for report in self._take(chunk):
                if report.failure is not None:
                    raise RuntimeError(report.failure)
                if report.ready and container in (None, report.container):
                    return
        raise RuntimeError("the kernel's gate ended without a word; the server's log may tell more")

    def _take(self, chunk: bytes) -> list[Report]:
        """Return the reports that are complete; the container is the one they name last."""
        *lines, self._said = (self._said + chunk).split(b"\n")
        reports = [Report.decode(line) for line in lines]
        for report in reports:
            self._container = report.container or self._container
            self._listens = True
        return reports

    def _catch_up(self) -> None:
        """Learn what the gate has said since: of a swap that others asked it for."""
        with suppress(BlockingIOError, ConnectionResetError):
            while self._words is not None and (chunk := self._words.recv(MAX_REPORT_BYTES)):
                self._take(chunk)


def _new_room() -> room.Room:
    with Engine.open() as engine:
        kernels = engine.kernel_sockets()
        room.sweep(kernels, engine)
        return room.Room.make(kernels)


async def _beside(act: Callable[[], _Result]) -> _Result:
    """Do it beside the event loop; in it where Python ends, when no thread starts any more.

    On a thread of its own, and looked for by the clock: front ends fork and use the same loop in
    both processes (nbclient's in a process pool), and in the child a loop's threads are missing
    while its wake-ups reach any of the processes.
    """
    result: Future[_Result] = Future()

    def work() -> None:
        try:
            result.set_result(act())
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            result.set_exception(error)

    try:
        threading.Thread(target=work, name="cellblock", daemon=True).start()
    except RuntimeError:
        return act()
    while not result.done():
        await asyncio.sleep(_TICK_S / 4)
    return result.result()


def _remove(container: str) -> None:
    with Engine.open() as engine, suppress(ContainerNotFound):
        engine.container(container).remove(force=True)
