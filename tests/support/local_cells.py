"""A runner as a plain process of this machine, for tests of what stands on the engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass
class Exit:
    exit_code: int
    verdict: Exception | None = None


class FakeAttached:
    """What Engine.spawn and Container.spawn_exec return, around a process of this machine."""

    def __init__(self, argv: list[str], judge=Exit) -> None:
        cell, self._to_cell = os.pipe()
        self._from_cell, frames = os.pipe()
        self._raw, raw = zip(os.pipe(), os.pipe(), strict=True)
        spell = f"import os,sys; os.dup2({cell}, 63); os.dup2({frames}, 64); "
        spell += f"os.dup2({raw[0]}, 65); os.dup2({raw[1]}, 66); "
        spell += "[os.dup2(fd + 60, fd) for fd in (3, 4, 5, 6)]; os.closerange(7, 256); "
        spell += "os.execvp(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-ISc", spell, *argv],
            pass_fds=(cell, frames, *raw),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for fd in (cell, frames, *raw):
            os.close(fd)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.channels = (self._to_cell, self._from_cell, *self._raw)
        self.stdin = None
        self.stdout = self.process.stdout.fileno()
        self.stderr = self.process.stderr.fileno()
        for fd in (self.stdout, self.stderr, *self.channels[1:]):
            os.set_blocking(fd, False)
        self.signals: list[int] = []
        self.container = SimpleNamespace(id="c0ffee")
        self._judge = judge

    def fileno(self) -> int:
        return self.pidfd

    def wait(self, timeout_s: float | None = None) -> Exit:
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        return self._judge(code if code >= 0 else 128 - code)

    def signal(self, signum: int) -> None:
        self.signals.append(signum)
        self.process.send_signal(signum)

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def kill(self) -> None:
        self.signals.append(signal.SIGKILL)
        self.process.kill()

    def close_channel(self, fd: int) -> None:
        self.channels = tuple(each for each in self.channels if each != fd)
        os.close(fd)

    def __enter__(self) -> FakeAttached:
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
        for fd in (*self.channels, self.pidfd):
            os.close(fd)
