"""Debian's Docker on a directory of ours: started by hand, without network, and ended by pid.

It has a mount namespace of its own, with which its mounts go. The system's own daemon, if there is
one, is neither asked nor disturbed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 600
CGROUPS, PARENT = Path("/sys/fs/cgroup"), "docker"
# The distribution's own come first: a client beside them may be years older or newer. What `make
# bench` installs only to measure it lies beside the virtual environment's own packages.
SEARCH = f"/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/usr/local/sbin:{sys.prefix}/peers/bin"
# Where it, its containerd and their shims write whatever the options say.
PRIVATE = ("/run", "/etc/docker")
WITHOUT_NETWORK = (
    *("--bridge=none", "--iptables=false", "--ip6tables=false"),
    *("--ip-forward=false", "--ip-masq=false"),
)


def find(program: str) -> str | None:
    """Return the path of a program, also where only root's PATH would find it."""
    return shutil.which(program, path=SEARCH)


@dataclass(frozen=True)
class Docker:
    """A Docker daemon of our own."""

    client: str
    socket: Path

    def argv(self, *words: str) -> list[str]:
        """Return the client's whole command."""
        return [self.client, "-H", f"unix://{self.socket}", *words]

    def __call__(self, *words: str) -> str:
        """Run the client and return what it printed; a failure's note is what it complained of."""
        command = self.argv(*words)
        try:
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
            )
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise
        return done.stdout

    def layers(self, image: str) -> list[Path]:
        """Return the directories of an image's layers, the bottom one first."""
        driver = json.loads(self("image", "inspect", "--format", "{{json .GraphDriver}}", image))
        assert driver["Name"] == "overlay2", driver
        lower = driver["Data"].get("LowerDir", "")
        return list(map(Path, filter(None, f"{driver['Data']['UpperDir']}:{lower}".split(":"))))[
            ::-1
        ]


@contextmanager
def serving(directory: Path) -> Iterator[Docker]:
    """Run a daemon that keeps everything below ``directory``; nothing of it is left on exit.

    The directory's path is short: sockets lie in it. Needs root, and both programs.
    """
    daemon, client = find("dockerd"), find("docker")
    if daemon is None or client is None:
        raise RuntimeError("docker is not installed; make test installs it (docker.io)")
    directory.mkdir(parents=True)
    already = frozenset(path for path in _cgroups() if path.name != PARENT)
    running = Docker(client, directory / "s")
    try:
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                _argv(daemon, directory), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            _wait_until_up(running, process, directory / "log")
            yield running
            _remove_containers(running)
        finally:
            _end(process)
    finally:
        _kill_left_over(directory)
        shutil.rmtree(directory, ignore_errors=True)
        # Parents too that another daemon has made: it makes them again when it needs them.
        for path in sorted(frozenset(_cgroups()) - already, reverse=True):
            with suppress(OSError):  # another daemon's containers are in it
                path.rmdir()


def _argv(daemon: str, directory: Path) -> list[str]:
    config = directory / "daemon.json"
    config.write_text("{}")  # else the machine's own settings are read
    places = {"config-file": config, "data-root": directory / "data", "pidfile": directory / "pid"}
    places |= {"exec-root": directory / "exec"}
    words = [f"--{name}={path}" for name, path in places.items()]
    hidden = [f"mount -t tmpfs none {path}" for path in PRIVATE if Path(path).is_dir()]
    script = " && ".join([*hidden, 'exec "$@"'])
    unshared = ["unshare", "--mount", "sh", "-c", script, "sh"]
    return [*unshared, daemon, *words, "-H", f"unix://{directory / 's'}", *WITHOUT_NETWORK]


def _wait_until_up(running: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            running("version")
        except subprocess.CalledProcessError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"dockerd did not come up: {log.read_text()[-2000:]}")


def _remove_containers(running: Docker) -> None:
    """Remove all containers, so that their shims end before the daemon does."""
    with suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):  # killed below
        if found := running("ps", "--all", "--quiet").split():
            running("rm", "--force", "--volumes", *found)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT_S)


def _kill_left_over(directory: Path) -> None:
    """Kill what a daemon that was killed leaves: containerd and shims, which name its directory.

    A container's processes are children of a shim, and go first.
    """
    marker = os.fsencode(directory) + b"/"
    for pid in _processes():
        with suppress(OSError):
            if marker in Path(f"/proc/{pid}/cmdline").read_bytes():
                for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)


def _processes() -> Iterator[int]:
    yield from (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())


def _cgroups() -> Iterator[Path]:
    """Yield the daemons' cgroups: parents, which they leave, and containers', in each hierarchy."""
    for parent in (*CGROUPS.glob(PARENT), *CGROUPS.glob(f"*/{PARENT}")):
        yield from (parent, *(each for each in parent.iterdir() if each.is_dir()))
