"""A process that another one started, as far as ``subprocess.Popen`` is needed of it."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

_UNKNOWN_STATUS = 0  # of another's child: only its parent learns how it ended
_START_FIELD = 19  # starttime, counted after the command's name: proc_pid_stat(5)


class AdoptedProcess:
    """Known by its pid, its start and the boot, so that another of the same pid is not met."""

    stdin = stdout = stderr = None

    def __init__(self, identity: dict[str, Any]) -> None:
        self.pid = int(identity["pid"])
        self._pidfd: int | None = None
        with suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(self.pid)
            # Looked at after the pidfd is held: from then on it cannot be another's.
            if self.identity(self.pid) != identity:
                self._close()

    @staticmethod
    def identity(pid: int) -> dict[str, Any] | None:
        """Return what tells this process from all others, ever; None if it has ended."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return {"pid": pid, "start": stat.rpartition(")")[2].split()[_START_FIELD], "boot": boot}

    def poll(self) -> int | None:
        """Return None while it runs."""
        if self._pidfd is not None and not select.select([self._pidfd], [], [], 0)[0]:
            return None
        self._close()
        return _UNKNOWN_STATUS

    def wait(self) -> int:
        """Return once it has ended."""
        if self._pidfd is not None:
            select.select([self._pidfd], [], [])
        self._close()
        return _UNKNOWN_STATUS

    def send_signal(self, signum: int) -> None:
        """Signal it; nothing if it has ended."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
