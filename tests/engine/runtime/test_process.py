"""A command as its monitor holds it: once it is reaped, its id and descriptor may be others'."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cellblock_engine.runtime.process import Process

SIGNALLING = {
    "signal": lambda process: process.signal(signal.SIGKILL),
    "interrupt": lambda process: process.interrupt(),
    "kill": lambda process: process.kill_group(),
}
SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


class Ordinary(Process):
    """A command without a container."""

    def __init__(self) -> None:
        self.pid = os.posix_spawn(SLEEP[0], SLEEP, {}, setsid=True)
        self.pidfd = os.pidfd_open(self.pid)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("how", SIGNALLING)
def test_a_running_command_is_signalled(how: str) -> None:
    process = Ordinary()
    SIGNALLING[how](process)
    # 1 is what Python itself makes of an interrupt during its start.
    assert process.reap() in (1, 128 + signal.SIGINT, 128 + signal.SIGKILL)


@pytest.mark.parametrize("how", SIGNALLING)
def test_a_reaped_command_is_not(
    how: str, bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Ordinary()
    process.signal(signal.SIGKILL)
    assert process.reap() == 128 + signal.SIGKILL
    groups: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _: groups.append(group))
    SIGNALLING[how](process)  # its descriptor is nobody's: no "Bad file descriptor"
    again = os.pidfd_open(bystander.pid)
    try:
        assert again == process.pidfd
        SIGNALLING[how](process)
    finally:
        os.close(again)
    assert groups == []
    with pytest.raises(subprocess.TimeoutExpired):
        bystander.wait(0.2)
