"""SIGKILL at a chosen system call of a process, by strace's fault injection.

strace counts each call's uses process by process, so a point is a call's name and which use of it.
Points are taken from a recorded run, and spread over all of it.
"""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from support import capabilities

CHANGING = (
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,"
    "fsync,ftruncate,fchmod,fchown,fchownat,flock,utimensat,sendmsg,pwrite64,write,mknod,mknodat,"
    "setxattr,lsetxattr,fsetxattr,copy_file_range,sendfile,setsockopt,sendto"
)
"""What a caller changes that others see."""
INSIDE = (
    f"{CHANGING},accept4,bind,capset,clone,clone3,close_range,execve,fsconfig,fsmount,fsopen,"
    "listen,mount,mount_setattr,move_mount,open_tree,pidfd_send_signal,pivot_root,seccomp,"
    "setgroups,sethostname,setns,setresgid,setresuid,setsid,socketpair,umount2,unshare,wait4"
)
"""What the engine's own processes change besides."""
_CALL = re.compile(r"^(?:(\d+) +)?(\w+)\(", re.MULTILINE)
_LINE = re.compile(r"^(?:(\d+) +)?(.*)$", re.MULTILINE)
_KILLED = "+++ killed by SIGKILL"
_NEVER_RETURNED = ("= ?", "<unfinished ...>")
_PATIENCE_S = 10.0
_LAST_CALLS_S = 0.3


@dataclass(frozen=True)
class Point:
    """The ``use``-th time, from 1, that one process makes ``call``."""

    call: str
    use: int


def options(calls: str, log: Path, point: Point | None) -> list[str]:
    """Return strace's words: record ``calls``, or strike at one point."""
    strace = capabilities.need_program("strace")
    if point is None:
        return [strace, "-q", "-o", str(log), "-e", f"trace={calls}"]
    inject = f"inject={point.call}:signal=SIGKILL:when={point.use}"
    return [strace, "-q", "-o", str(log), "-e", f"trace={point.call}", "-e", inject]


@contextmanager
def attached(pid: int, words: Sequence[str]) -> Iterator[None]:
    """Let strace hold a process during the block, and let go of what is left of it afterwards."""
    with subprocess.Popen([*words, "-p", str(pid)], stderr=subprocess.DEVNULL) as tracer:
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not _is_traced(pid):
                assert time.monotonic() < deadline, "strace does not attach"
                time.sleep(0.005)
            yield
            with suppress(subprocess.TimeoutExpired):
                tracer.wait(_LAST_CALLS_S)  # what it holds ends by itself, or goes on
        finally:
            tracer.terminate()
            with suppress(subprocess.TimeoutExpired):
                tracer.wait(_PATIENCE_S)
            tracer.kill()


def struck(log: Path) -> bool:
    """Tell whether a process was killed at the call that was traced, not merely after it."""
    last: dict[str, str] = {}
    for pid, line in _LINE.findall(log.read_text()):
        if line.startswith(_KILLED) and last.get(pid, "").endswith(_NEVER_RETURNED):
            return True
        last[pid] = line
    return False


def points(log: Path, *, beside: int | None = None) -> list[Point]:
    """Return the points of a recorded run in order, each once.

    With ``beside``, only those that this process never reaches: others are struck there.
    Of a row of the same call only the ends count.
    """
    used: Counter[tuple[str, str]] = Counter()
    made: dict[str, list[Point]] = {}
    for pid, call in _CALL.findall(log.read_text()):
        used[pid, call] += 1
        made.setdefault(pid, []).append(Point(call, used[pid, call]))
    taken = set(made.pop(str(beside), ()))
    ends: dict[Point, None] = {}
    for own in made.values():
        for _, row in groupby(own, key=lambda point: point.call):
            same = list(row)
            ends |= {same[0]: None, same[-1]: None}
    return [point for point in ends if point not in taken]


def spread(known: Sequence[Point], count: int, chance: random.Random) -> list[Point]:
    """Return at most ``count`` of the points, at even distances from a random beginning."""
    if len(known) <= count:
        return list(known)
    step = len(known) / count
    begin = chance.random() * step
    return [known[int(begin + number * step)] for number in range(count)]


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" not in status
