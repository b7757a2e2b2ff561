"""Kernels in containers as front ends start them, and what may be left of them: nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import leaks

IPYKERNEL = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")
GONE_S = 5.0
ANSWER_S = 30.0


class Site:
    """A user's Jupyter and store of their own: kernelspecs, runtime files, a notebook's folder."""

    def __init__(self, base: Path) -> None:
        self.home = base / "store"
        self.folder = base / "notebooks"
        self.runtime = base / "runtime"
        self._specs = base / "share" / "kernels"
        for path in (self.folder, self.runtime, self._specs):
            path.mkdir(parents=True)
        self.env = {
            "CELLBLOCK_HOME": str(self.home),
            "JUPYTER_PATH": str(base / "share"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_CONFIG_DIR": str(base / "config"),
            "JUPYTER_DATA_DIR": str(base / "data"),
            "IPYTHONDIR": str(base / "ipython"),
        }

    def install(
        self,
        name: str,
        *,
        argv: Sequence[str] = IPYKERNEL,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> str:
        """Write a kernelspec as ``cellblock kernel install`` does; return its name."""
        from cellblock_kernel.gate.options import KernelOptions, command

        provisioner = {"kernel_provisioner": {"provisioner_name": "cellblock"}}
        words = command(KernelOptions(**options), argv)
        return self._write(name, {"argv": words, "env": env or {}, "metadata": provisioner})

    def install_local(self, name: str) -> str:
        """Write the kernelspec of a plain kernel of this Python; return its name."""
        return self._write(name, {"argv": list(IPYKERNEL), "metadata": {}})

    def _write(self, name: str, spec: dict[str, Any]) -> str:
        spec["metadata"]["debugger"] = True
        directory = self._specs / name
        directory.mkdir(exist_ok=True)
        text = json.dumps({"display_name": name, "language": "python", **spec})
        (directory / "kernel.json").write_text(text)
        return name

    def argv(self, name: str, connection_file: Path) -> list[str]:
        """Return what a front end that ignores provisioners runs."""
        words = json.loads((self._specs / name / "kernel.json").read_text())["argv"]
        return [str(connection_file) if word == "{connection_file}" else word for word in words]

    @contextmanager
    def kernel(self, name: str, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Start a kernel as nbclient does; yield its KernelManager and client."""
        from jupyter_client.manager import start_new_kernel

        km, kc = start_new_kernel(
            startup_timeout=ANSWER_S, kernel_name=name, cwd=str(self.folder), **kwargs
        )
        try:
            yield km, kc
        finally:
            kc.stop_channels()
            km.shutdown_kernel(now=True)

    def left(self) -> dict[str, object]:
        """Return what there is of kernels; an empty dictionary is nothing at all."""
        from cellblock_engine import Engine

        with Engine.open(self.home) as engine:
            run = engine.info().run
            containers = [info.id for info in engine.containers()]
            rooms = _ours(engine.kernel_sockets())
        engine_pids = list(leaks.engine_pids(self.home, run))
        found = {
            "containers": containers,
            "rooms": rooms,
            "gates": self.gates(),
            "processes": engine_pids[2:],  # a spawner and its spare monitor stay a while
            "connection files": list(self.runtime.glob("kernel-*")),
            "mounts": [
                line
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if str(self.home) in line
            ],
        }
        return {name: value for name, value in found.items() if value}

    def assert_gone(self, timeout_s: float = GONE_S) -> None:
        """Wait until nothing is left of any kernel."""
        deadline = time.monotonic() + timeout_s
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, left

    def execute(self, words: str) -> subprocess.CompletedProcess[str]:
        """Run one of Jupyter's own programs in the notebook's folder; ``words`` begin with it."""
        return subprocess.run(
            [sys.executable, "-m", *words.split()],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def gates(self) -> list[int]:
        """Return the pids of this site's gates."""
        own = b"CELLBLOCK_HOME=" + os.fsencode(self.home)
        return [pid for pid in _gates() if own in _words(pid, "environ")]


def cgroups_of(container: str) -> list[Path]:
    """Return the control groups of a container that are there."""
    return [
        Path(directory) / name
        for directory, names, _ in os.walk(leaks.CGROUP_ROOT)
        for name in names
        if container[:12] in name
    ]


@contextmanager
def site(base: Path) -> Iterator[Site]:
    """Make a site, and be its user meanwhile."""
    made = Site(base)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.env.items():
            patch.setenv(name, value)
        yield made


def install(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``cellblock kernel install --user``."""
    return subprocess.run(
        [sys.executable, "-m", "cellblock", "kernel", "install", "--user", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **(env or {}),
        },
    )


def installed(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Return the names and contents of the kernelspecs that were installed."""
    assert done.returncode == 0, done.stderr
    paths = [Path(line.split(": ")[1]) for line in done.stdout.splitlines()]
    return {path.name: json.loads((path / "kernel.json").read_text()) for path in paths}


def interrupted(km: Any, kc: Any, code: str) -> str:
    """Interrupt the kernel a second after ``code``, of 20 s, began; return what was printed."""
    timer = threading.Timer(1.0, km.interrupt_kernel)
    begun: list[float] = []

    def begin() -> None:
        begun.append(time.monotonic())
        timer.start()

    said = run(kc, code, began=begin)
    timer.join()
    assert time.monotonic() - begun[0] < 15
    return said


def run(kc: Any, code: str, *, began: Callable[[], None] | None = None, **kwargs: Any) -> str:
    """Execute and return what was printed, and the error's name and value after it."""
    text: list[str] = []

    def show(message: dict[str, Any]) -> None:
        content = message["content"]
        if began is not None and message["msg_type"] == "execute_input":
            began()
        if message["msg_type"] == "stream":
            text.append(content["text"])
        elif message["msg_type"] == "error":
            text.append(f"{content['ename']}: {content['evalue']}")

    kc.execute_interactive(code, output_hook=show, timeout=ANSWER_S, **kwargs)
    return "".join(text)


def _gates() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and b"cellblock_kernel.gate" in _words(int(entry.name), "cmdline"):
            yield int(entry.name)


def _words(pid: int, file: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().split(b"\0")
    except OSError:
        return []  # it has ended


def _ours(kernels: Path) -> list[str]:
    """Return the rooms that no other process owns: those of other users of this machine do."""
    owners = {}
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" in words:
            at = words.index("FLOCK")
            owners[int(words[at + 4].rpartition(":")[2])] = int(words[at + 3])
    return [
        room.name
        for room in kernels.iterdir()
        if room.is_dir() and owners.get(_inode(room / "lock"), os.getpid()) == os.getpid()
    ]


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
