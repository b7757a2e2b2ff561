"""Notebook kernels, plain local ones and ones in containers: until ready, until a cell is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

from support.kernels import ANSWER_S, Site

from .rounds import Contestant, markdown

KINDS = {"plain local ipykernel": "local", "ipykernel in a container (host)": "boxed"}
PANDAS = "import pandas as pd; pd.DataFrame({'a': [1, 2]})"


class Kernel:
    """One kernel at a time: what a front end does with it, step by step."""

    def __init__(self, site: Site, name: str) -> None:
        self._site, self._name = site, name
        self._manager: Any = None

    def start(self) -> None:
        """Start it and wait for its first answer, as nbclient does."""
        self._manager, self._client = start_new_kernel(
            startup_timeout=ANSWER_S, kernel_name=self._name, cwd=str(self._site.folder)
        )

    def first_cell(self) -> None:
        """Start it and show a first table."""
        self.start()
        self.execute(PANDAS)

    def restart(self) -> None:
        """Restart it and wait for its first answer."""
        self._manager.restart_kernel()
        self._client.wait_for_ready(timeout=ANSWER_S)

    def execute(self, code: str) -> None:
        """Run a cell to its end."""
        self._client.execute_interactive(code, timeout=ANSWER_S, output_hook=lambda _: None)

    def end(self) -> None:
        """Shut it down, if there is one."""
        if self._manager is not None:
            self._client.stop_channels()
            self._manager.shutdown_kernel(now=True)
            self._manager = None


def tables(stack: ExitStack, directory: Path, rounds: int) -> str:
    """Measure and return the tables."""
    site = Site(directory / "kernels")
    site.install("boxed")
    site.install_local("local")
    os.environ.update(site.env)
    kernels = {title: Kernel(site, name) for title, name in KINDS.items()}
    for kernel in kernels.values():
        stack.callback(kernel.end)
    return "\n".join(
        (
            _table("kernel until ready", kernels, Kernel.start, Kernel.end, rounds),
            _table(
                "kernel until its first pandas table",
                kernels,
                Kernel.first_cell,
                Kernel.end,
                rounds,
            ),
            _table("restart until ready", kernels, Kernel.restart, _running, rounds),
        )
    )


def _running(kernel: Kernel) -> None:
    if kernel._manager is None:
        kernel.start()


def _table(
    title: str,
    kernels: dict[str, Kernel],
    run: Callable[[Kernel], None],
    prepare: Callable[[Kernel], None],
    rounds: int,
) -> str:
    contestants = [
        Contestant(name, lambda kernel=kernel: run(kernel), lambda kernel=kernel: prepare(kernel))
        for name, kernel in kernels.items()
    ]
    table = markdown(title, contestants, rounds, next(iter(kernels)))
    for kernel in kernels.values():
        kernel.end()
    return table
