"""The other engines: found, started by hand below a directory of ours, and ended by pid."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
PROGRAMS = ("dockerd", "docker", "runc", "bwrap", "kern")
# What `make` installs only to measure it lies beside the virtual environment's own packages.
SEARCH = f"/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:{sys.prefix}/peers/bin"


def find(program: str) -> str | None:
    """Return the path of a program, also where only root's PATH would find it."""
    return shutil.which(program, path=SEARCH)


def missing() -> list[str]:
    """Return the names of the peers' programs that are not installed."""
    return [name for name in PROGRAMS if find(name) is None]


@dataclass(frozen=True)
class Docker:
    """A Docker daemon of our own."""

    client: str
    socket: Path

    def __call__(self, *argv: str) -> str:
        """Run the client and return what it printed."""
        command = [self.client, "-H", f"unix://{self.socket}", *argv]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def docker(stack: ExitStack, directory: Path) -> Docker | None:
    """Start a daemon without network; the stack ends it. None where it is not installed."""
    daemon, client = find("dockerd"), find("docker")
    if daemon is None or client is None:
        return None
    directory.mkdir(parents=True)
    socket = directory / "s"
    argv = [daemon, "--data-root", directory / "data", "--exec-root", directory / "exec"]
    argv += ["-H", f"unix://{socket}", "--pidfile", directory / "pid"]
    argv += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    log = stack.enter_context((directory / "log").open("wb"))
    stack.callback(_remove_cgroups, already=frozenset(_cgroups()))
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(_stop, process, directory)
    running = Docker(client, socket)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            running("version")
        except subprocess.CalledProcessError:
            time.sleep(0.2)
        else:
            return running
    raise RuntimeError(f"dockerd did not come up: {(directory / 'log').read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes], directory: Path) -> None:
    """End the daemon, then take away the mounts that it leaves below its directory."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT_S)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", mount], check=False)


def _cgroups() -> Iterator[Path]:
    """Yield the daemon's parent cgroups, which it makes and leaves: one for each v1 hierarchy."""
    root = Path("/sys/fs/cgroup")
    yield from (*root.glob("docker"), *root.glob("*/docker"))


def _remove_cgroups(*, already: frozenset[Path]) -> None:
    for path in frozenset(_cgroups()) - already:
        with suppress(OSError):  # another daemon's containers are in it
            path.rmdir()
