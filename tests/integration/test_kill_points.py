"""SIGKILL at system calls that change something: of callers, spawner, monitor, init, workload.

``CELLBLOCK_POINTS`` is how many calls of each case are struck, spread over all that a recorded run
of it makes: 2 for ``make test``, 25 for ``make soak``. After each, the next command finds all or
nothing, and heals.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cellblock_engine import (
    CellblockError,
    ContainerNotFound,
    Digest,
    Engine,
    ImageNotFound,
    RunRequest,
)
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import sweep
from support import leaks, strikes
from support.fakeregistry import FakeRegistry, ImageParts, an_image, serving
from support.fakeuploads import Uploads, accept

pytestmark = [
    pytest.mark.alone,
    pytest.mark.usefixtures("root"),
    pytest.mark.timeout(3600),
    pytest.mark.attack(70),
]

POINTS = int(os.environ.get("CELLBLOCK_POINTS", "2"))
SEED = int(os.environ.get("CELLBLOCK_SEED", str(time.time_ns() % 1_000_000)))
FILES = 20
SCRIPT = "for n in $(seq 20); do echo > /srv/$n; done"
PRELUDE = """
import sys
from pathlib import Path
import cellblock_engine.registry.push
from cellblock_engine import Engine, RunRequest
engine, name = Engine.open(Path(sys.argv[1])), sys.argv[2]
"""
CASES = {
    "pull": "engine.pull(name)",
    "rmi": "engine.remove_image(name)",
    "run": f"engine.run(name, ['sh', '-c', {SCRIPT!r}])",
    "rm": "engine.container('struck').remove(force=True)",
    "commit": "engine.commit('struck', name)",
    "push": "engine.push(name)",
    "load": "engine.load(Path(name))",
}


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with serving() as served:
        yield served


@pytest.fixture
def at_rest(base_engine: Engine, base_home: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a check that the next command heals, and that nothing is left of the last one."""
    monkeypatch.setattr(sweep, "_ABANDONED_S", -1.0)  # at once, not after a minute
    layout = Layout.default(base_home)
    groups, orphans = leaks.empty_cgroups(), leaks.orphans()
    mounts = Path("/proc/self/mounts").read_text()

    def left() -> dict[str, list[str]]:
        return {
            "containers": sorted(os.listdir(layout.containers)),
            "names": sorted(os.listdir(layout.names)),
            "staging": sorted(os.listdir(layout.staging)),
            "sockets": sorted(path.name for path in layout.run.glob("????????????.sock")),
            "cgroups": sorted(map(str, leaks.empty_cgroups() - groups)),
            "processes": sorted(map(str, leaks.orphans() - orphans)),
            "engine": sorted(map(str, leaks.engine_pids(layout.home, layout.run)))[2:],
        }

    def check(image: str, point: strikes.Point) -> None:
        done = base_engine.run(image, ["echo", "healed"])
        assert done.stdout == b"healed\n", (SEED, point)
        for info in base_engine.containers():
            with suppress(ContainerNotFound):
                base_engine.container(info.id).remove(force=True)
        base_engine.doctor()
        deadline = time.monotonic() + 10
        while any((now := left()).values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(now.values()), (SEED, point, now)
        assert Path("/proc/self/mounts").read_text() == mounts

    return check


def strike(program: str, home: Path, name: str, log: Path, point: strikes.Point | None) -> int:
    """Run a client that is killed at this point, or recorded without one; return its status."""
    argv = [sys.executable, "-B", "-c", PRELUDE + program, str(home), name]
    words = strikes.options(strikes.CHANGING, log, point)
    done = subprocess.run([*words, "-f", *argv], check=False, capture_output=True, timeout=120)
    return done.returncode


def parts_of(number: int) -> ImageParts:
    noise = random.Random(number)
    return an_image(layers=FILES, contents=tuple(noise.randbytes(1000) for _ in range(FILES)))


def assert_whole(engine: Engine, home: Path, reference: str) -> None:
    """Pulled again, an image has every file of every layer."""
    image = engine.pull(reference)
    layers = Layout.default(home).layers
    sizes = [
        (layers / layer.hex / "fs" / f"file{number}").stat().st_size
        for number, layer in enumerate(image.layers)
    ]
    assert sizes == [1000] * FILES


def assert_pushed(engine: Engine, uploads: Uploads, reference: str) -> None:
    """The registry has no image or all of it, and what is missing can be sent."""
    image = engine.image(reference)
    for raw, _ in uploads.manifests.values():
        assert Digest.of(raw) == image.manifest
    pushed = engine.push(reference)
    assert (pushed.id, pushed.layers) == (image.id, image.layers)
    engine.remove_image(reference)
    fetched = engine.pull(reference)
    assert (fetched.id, fetched.manifest) == (image.id, pushed.manifest)
    engine.remove_image(reference)


def assert_committed(engine: Engine, reference: str, number: int) -> None:
    """An image that is there is whole, and the container can become one."""
    wanted = [f"{number}\n".encode() * FILES]
    with suppress(ImageNotFound):
        wanted.append(engine.run(reference, ["sh", "-c", "cat /srv/*"]).stdout)
    engine.commit("struck", reference)
    wanted.append(engine.run(reference, ["sh", "-c", "cat /srv/*"]).stdout)
    assert len(set(wanted)) == 1, wanted
    engine.container("struck").remove()
    engine.remove_image(reference)


@pytest.mark.parametrize("case", CASES)
def test_a_caller_is_killed(
    base_engine: Engine,
    base_home: Path,
    base_image: str,
    fake: FakeRegistry,
    tmp_path: Path,
    at_rest,
    case: str,
) -> None:
    log, uploads = tmp_path / "strace.log", accept(fake)

    def one(number: int, point: strikes.Point | None) -> int:
        reference = base_image
        if case in ("pull", "rmi", "load"):
            reference = fake.serve(parts_of(number), f"{case}{number}")
        if case == "rmi":
            base_engine.pull(reference)
        if case == "commit":
            reference = "mine/struck"
            argv = ("sh", "-c", SCRIPT.replace("echo", f"echo {number}"))
            base_engine.start(RunRequest(image=base_image, argv=argv, name="struck")).wait(10)
        if case == "push":
            reference = f"{fake.host}/push{number}:latest"
            argv = ("sh", "-c", SCRIPT.replace("echo", f"echo {number}"))
            base_engine.start(RunRequest(image=base_image, argv=argv, name="struck")).wait(10)
            base_engine.commit("struck", reference)
            base_engine.container("struck").remove()
            uploads.manifests.clear()
        if case == "rm":
            argv = ("sh", "-c", f"{SCRIPT}; sleep 60")
            base_engine.start(RunRequest(image=base_image, argv=argv, name="struck"))
        subject = reference
        if case == "load":
            subject = str(tmp_path / "archive")
            base_engine.pull(reference)
            base_engine.save([reference], Path(subject))
            base_engine.remove_image(reference)
        status = strike(CASES[case], base_home, subject, log, point)
        if case == "commit":
            assert_committed(base_engine, reference, number)
        if case == "push":
            assert_pushed(base_engine, uploads, reference)
        if case == "load":
            (image,) = base_engine.load(Path(subject))
            assert str(image.references[0]) == reference
        if case in ("pull", "rmi", "load"):
            assert_whole(base_engine, base_home, reference)
            base_engine.remove_image(reference)
            with pytest.raises(ImageNotFound):
                base_engine.image(reference)
        return status

    base_engine.run(base_image, ["true"]).check()  # the spawner is nobody's child here
    assert one(0, None) == 0
    chosen = strikes.spread(strikes.points(log), POINTS, random.Random(SEED))
    hit = 0
    for number, point in enumerate(chosen, 1):
        one(number, point)
        hit += strikes.struck(log)
        at_rest(base_image, point)
    assert 2 * hit >= len(chosen), (SEED, chosen, "not all points are in every run")


def _without_container(layout: Layout) -> list[int]:
    """Return the spawner and its next monitor: a monitor with a container has a name of its own."""
    return [
        pid
        for pid in leaks.engine_pids(layout.home, layout.run)
        if b"/spawn.py" in leaks.command(pid)
    ]


def engine_pid(home: Path, victim: str) -> int:
    """Return the spawner's id, or its next monitor's, once it has that."""
    layout = Layout.default(home)
    deadline = time.monotonic() + 10
    while len(pids := _without_container(layout)) != 2:
        assert time.monotonic() < deadline, pids
        time.sleep(0.01)
    spawner, monitor = sorted(pids, key=lambda pid: leaks.parent(pid) in pids)
    return spawner if victim in ("spawner", "sweep") else monitor


def run(engine: Engine, image: str) -> None:
    """Run to the end."""
    engine.run(image, ["sh", "-c", SCRIPT])


def lose_monitor(engine: Engine, image: str) -> None:
    """Kill a monitor, after which the spawner sweeps."""
    argv = ("sh", "-c", f"{SCRIPT}; sleep 60")
    with engine.spawn(RunRequest(image=image, argv=argv)) as attached:
        os.kill(leaks.parent(attached.pid), signal.SIGKILL)
        assert attached.wait(10).exit_code == 137


WORK = {"spawner": run, "sweep": lose_monitor, "monitor": run, "inside": run}


@pytest.mark.parametrize("victim", WORK)
def test_a_process_of_the_engine_is_killed(
    base_engine: Engine, base_home: Path, base_image: str, tmp_path: Path, at_rest, victim: str
) -> None:
    """``inside`` are init and the workload, by the calls that the monitor does not make.

    ``sweep`` is the spawner while it sets right what a killed monitor left.
    """
    log = tmp_path / "strace.log"

    def one(point: strikes.Point | None) -> int:
        base_engine.run(base_image, ["true"]).check()
        pid = engine_pid(base_home, victim)
        words = strikes.options(strikes.INSIDE, log, point)
        follow = ["-f"] if victim == "inside" else []
        # Anything but one of the engine's own errors is a defect.
        with strikes.attached(pid, [*words, *follow]), suppress(CellblockError):
            WORK[victim](base_engine, base_image)
        return pid

    recorded = one(None)
    beside = recorded if victim == "inside" else None
    chosen = strikes.spread(strikes.points(log, beside=beside), POINTS, random.Random(SEED))
    hit = 0
    for point in chosen:
        one(point)
        hit += strikes.struck(log)
        at_rest(base_image, point)
    assert 2 * hit >= len(chosen), (SEED, chosen, "not all points are in every run")
