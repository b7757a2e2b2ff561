"""A machine of its own kernel: User Mode Linux, booted for a run of tests and ended with them.

Nothing of it stays on the host but what it writes into the folder of results.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# For when this process is killed: the machine's processes do not end with one another.
WATCH = 'read -r _; kill -9 "-$1"; rm -rf "$2"'
XSTATE = Path(__file__).with_name("xstate.c")
COMPILE_TIMEOUT_S = 60
REFUSALS = ("ptrace", "check_ptrace")  # with these its own trials begin
SHM = "/dev/shm"  # where User Mode Linux looks first
GRACE_S = 10


@dataclass(frozen=True)
class Machine:
    """What a machine is made of, and where its words go."""

    image: Path
    checkout: Path
    cache: Path
    results: Path
    memory_mib: int = 2048

    @property
    def console(self) -> Path:
        """The file of what the kernel and systemd say."""
        return self.results / "console.log"

    def refusal(self) -> str | None:
        """Return why User Mode Linux did not even begin: it stands on ptrace(2)."""
        said = self.console.read_text(errors="replace").split()
        return " ".join(said) if " ".join(said).startswith(REFUSALS) else None

    def last_words(self) -> str:
        """Return the last line of what the kernel and systemd said."""
        lines = self.console.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def run(self, *, deadline_s: float) -> bool:
        """Boot the machine and wait until it has switched itself off.

        Returns whether it did so before ``deadline_s`` seconds. Raises ``ValueError`` for a folder
        whose name cannot stand on a kernel's command line.
        """
        folders = {"checkout": self.checkout, "results": self.results, "cache": self.cache}
        for folder in folders.values():
            if set(str(folder)) & set(" \t\n,\"'"):
                raise ValueError(f"{folder}: no spaces, commas or quotes, for the kernel's sake")
        with tempfile.TemporaryDirectory(prefix="cb-vm-", ignore_cleanup_errors=True) as directory:
            preloaded = _preloaded(Path(directory))
            argv = [
                *(
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                ),  # nobody else ends it if this process is killed
                "linux.uml",
                f"mem={self.memory_mib}M",
                f"ubda={directory}/changes,{self.image}",
                "root=/dev/ubda",
                "rw",
                "con0=null,fd:1",
                "con=null",
                "ssl=null",
                "quiet",
                f"uml_dir={directory}/",
                "umid=machine",
                *(f"rig.{name}={folder}" for name, folder in folders.items()),
            ]
            with self.console.open("wb") as console:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                    env={
                        "PATH": os.environ["PATH"],
                        "HOME": directory,
                        **_memory(self.memory_mib << 20, directory),
                        **preloaded,
                    },
                )
                try:
                    # Its kernel and its processes take turns: between processors each turn costs
                    # a wake-up, and all takes more than twice as long.
                    os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
                    with _watched(process, directory):
                        process.wait(deadline_s)
                except subprocess.TimeoutExpired:
                    return False
                finally:
                    _end(process)
        return True


def lacking() -> str | None:
    """Return what is missing here to boot one, as far as can be told before; None for nothing."""
    if platform.machine() != "x86_64":
        return f"an x86-64 processor for User Mode Linux, not {platform.machine()}"
    if shutil.which("linux.uml") is None:
        return "User Mode Linux (linux.uml), which make test-vm installs"
    return None


def _memory(size_bytes: int, directory: str) -> dict[str, str]:
    """Return what says where the machine's memory is a file; in a container /dev/shm is small."""
    found = os.statvfs(SHM) if os.path.isdir(SHM) else None
    if found is not None and found.f_bavail * found.f_frsize > size_bytes:
        return {}
    return {"TMPDIR": directory}


def _preloaded(directory: Path) -> dict[str, str]:
    """Return what the environment must hold on this processor; compiles it into ``directory``."""
    if " amx_tile" not in Path("/proc/cpuinfo").read_text():
        return {}
    library = directory / "xstate.so"
    argv = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(XSTATE)]
    subprocess.run(argv, check=True, timeout=COMPILE_TIMEOUT_S)
    return {"LD_PRELOAD": str(library)}


@contextmanager
def _watched(process: subprocess.Popen[bytes], directory: str) -> Iterator[None]:
    """Have the machine ended and its directory removed, should this process be killed."""
    argv = ["sh", "-c", WATCH, "sh", str(process.pid), directory]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as watcher:
        try:
            yield
        finally:
            watcher.kill()  # before its pipe is closed, which it takes for an end of this process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the kernel and the processes that carry the machine's: they are its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(GRACE_S)
