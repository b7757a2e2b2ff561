"""A machine of its own kernel: User Mode Linux, booted for a run of tests and ended with them.

Nothing of it stays on the host but what it writes into the folder of results.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

XSTATE = Path(__file__).with_name("xstate.c")
COMPILE_TIMEOUT_S = 60
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
                    env={"PATH": os.environ["PATH"], "HOME": directory, **preloaded},
                )
                try:
                    process.wait(deadline_s)
                except subprocess.TimeoutExpired:
                    return False
                finally:
                    _end(process)
        return True


def installed() -> bool:
    """Return whether User Mode Linux is there."""
    return shutil.which("linux.uml") is not None


def _preloaded(directory: Path) -> dict[str, str]:
    """Return what the environment must hold on this processor; compiles it into ``directory``."""
    if " amx_tile" not in Path("/proc/cpuinfo").read_text():
        return {}
    library = directory / "xstate.so"
    argv = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(XSTATE)]
    subprocess.run(argv, check=True, timeout=COMPILE_TIMEOUT_S)
    return {"LD_PRELOAD": str(library)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the kernel and the processes that carry the machine's: they are its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(GRACE_S)
