"""What a running container tries against others that start, and against commands on their way in.

``CELLBLOCK_TRIES`` is how often: 60 for ``make test``, 1,000 for ``make attacks``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cellblock_engine import Bind, Engine, Limits, Removal, RunRequest, errors
from support.inside import read_line

pytestmark = pytest.mark.usefixtures("root")

TRIES = int(os.environ.get("CELLBLOCK_TRIES", "60"))

SWAPPER = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
os.umask(0)
os.makedirs("/shared/way/in", exist_ok=True)
os.symlink(TARGET, "/shared/other")
print("ready", flush=True)
end = time.monotonic() + 600
while time.monotonic() < end:
    for _ in range(200):
        if libc.renameat2(-100, b"/shared/way", -100, b"/shared/other", 2):  # RENAME_EXCHANGE
            raise OSError(ctypes.get_errno(), "renameat2")
"""


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of the host that no container has, open to everybody but for its name."""
    directory = Path(tempfile.mkdtemp(prefix="cb-race-"))
    directory.chmod(0o755)
    (directory / "shared").mkdir()
    (directory / "shared").chmod(0o777)
    (directory / "canary" / "in").mkdir(parents=True)
    (directory / "canary").chmod(0o777)
    (directory / "canary" / "in").chmod(0o777)
    (directory / "canary" / "in" / "secret").write_text("seen")
    yield directory
    shutil.rmtree(directory)


def entries(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("up", ["", "../../../../../.."], ids=["absolute", "relative"])
def test_11_a_sibling_swaps_links_while_another_starts(
    base_engine: Engine, base_image: str, outside: Path, up: str
) -> None:
    """The targets of the second container's binds lie in what the first can change."""
    target = f"{up}{outside}/canary"
    shared = Bind(outside / "shared", "/shared", writable=True)
    swap = SWAPPER.replace("TARGET", repr(target))
    request = RunRequest(
        image=base_image,
        argv=("python3", "-c", swap),
        binds=(shared,),
        removal=Removal.AT_END,
        limits=Limits(cpus=0.5),
    )
    gift = outside / "gift"
    gift.mkdir()
    (gift / "given").write_text("given")
    before = entries(outside / "canary")
    with base_engine.spawn(request) as sibling:
        assert read_line(sibling.stdout) == b"ready\n"
        started = 0
        for number in range(TRIES // 2):
            victim = RunRequest(
                image=base_image,
                argv=("cat", "/shared/way/in/secret"),
                binds=(shared, Bind(gift, f"/shared/way/in/new{number % 7}")),
                removal=Removal.AT_END,
            )
            with suppress(errors.StartFailed), base_engine.spawn(victim) as attached:
                seen, _, _ = attached.communicate(None, most_bytes=1000)
                started += 1
                assert b"seen" not in seen
            assert entries(outside / "canary") == before
        assert sibling.container.inspect().status == "running", "it swapped all the time"
        assert started
        sibling.kill()
        sibling.wait(20)


@pytest.mark.timeout(600)
def test_11_links_swapped_below_a_working_directory(
    base_engine: Engine, base_image: str, outside: Path
) -> None:
    """Code inside swaps the working directory of each exec for links that lead out of it."""
    swap = SWAPPER.replace("/shared", "/srv").replace("TARGET", "'/proc/self/fd'")
    container = base_engine.start(RunRequest(image=base_image, argv=("python3", "-c", swap)))
    try:
        entered = 0
        for number in range(TRIES):
            with suppress(errors.StartFailed):
                # A descriptor of a directory of the host would show where it is.
                way = "/srv/way/in" if number % 2 else f"/srv/way/{3 + number % 40}"
                done = container.exec(["sh", "-c", "pwd -P; ls -d ../../../../etc"], workdir=way)
                entered += 1
                where, below = done.stdout.decode().splitlines()
                assert where.startswith(("/srv/way/", "/srv/other/")), "made where it was missing"
                assert below == "../../../../etc"
        assert container.inspect().status == "running", "it swapped all the time"
        assert entered
    finally:
        container.remove(force=True)


TRACER = """
import ctypes, json, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
seen, own = {}, {str(os.getpid()), "1"}
print("ready", flush=True)
end = time.monotonic() + 60
while not os.path.exists("/stop") and time.monotonic() < end:
    for pid in set(filter(str.isdigit, os.listdir("/proc"))) - own:
        for name, flags in (("mem", os.O_RDWR), ("exe", os.O_RDONLY), ("environ", os.O_RDONLY)):
            try:
                fd = os.open(f"/proc/{pid}/{name}", flags)
                program = os.readlink(f"/proc/{pid}/exe")
                seen[f"{name} of {program}"] = seen.get(f"{name} of {program}", 0) + 1
                os.close(fd)
            except OSError:
                seen["refused"] = seen.get("refused", 0) + 1
        if libc.ptrace(PTRACE_ATTACH, int(pid), 0, 0) == 0:
            try:
                os.waitpid(int(pid), 0x40000000)  # __WALL: it stands
                program = os.readlink(f"/proc/{pid}/exe")
                seen[f"trace of {program}"] = seen.get(f"trace of {program}", 0) + 1
            except OSError:
                pass
            libc.ptrace(PTRACE_DETACH, int(pid), 0, 0)
            try:
                os.kill(int(pid), signal.SIGCONT)
            except OSError:
                pass
print(json.dumps(seen), flush=True)
"""


def test_17_tracing_commands_on_their_way_in(base_engine: Engine, base_image: str) -> None:
    request = RunRequest(image=base_image, argv=("python3", "-c", TRACER), removal=Removal.AT_END)
    with base_engine.spawn(request) as tracer:
        assert read_line(tracer.stdout) == b"ready\n"
        for number in range(TRIES):
            argv = ["sleep", "0.01"] if number % 4 else ["sh", "-c", "sleep 0.02; true"]
            tracer.container.exec(argv, timeout=30)
        tracer.container.exec(["touch", "/stop"])
        output, complaints, end = tracer.communicate(None, most_bytes=100_000)
    assert end.exit_code == 0, complaints
    seen = json.loads(output)
    engines = os.path.realpath(sys.executable)
    programs = {words.partition(" of ")[2] for words in seen if " of " in words}
    assert programs, "it met commands that had arrived"
    assert seen.get("refused"), "it met commands on their way in"
    assert engines not in programs
    assert programs <= {"/usr/bin/sleep", "/usr/bin/dash", "/usr/bin/touch", "/bin/sleep"}, seen
