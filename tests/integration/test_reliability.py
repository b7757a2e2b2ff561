"""Processes that are killed, and processes that work on one store at once.

``make soak`` does the same at length: CELLBLOCK_PROCESSES, CELLBLOCK_OPERATIONS, CELLBLOCK_CRASHES.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine import Engine, Limits, RunRequest
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import sweep
from support import crashes, leaks
from support.fakeregistry import FakeRegistry, ImageParts, an_image, serving

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("root"), pytest.mark.timeout(3600)]

PROCESSES = int(os.environ.get("CELLBLOCK_PROCESSES", "5"))
OPERATIONS = int(os.environ.get("CELLBLOCK_OPERATIONS", "20"))
CRASHES = int(os.environ.get("CELLBLOCK_CRASHES", "30"))
SEED = int(os.environ.get("CELLBLOCK_SEED", str(time.time_ns() % 1_000_000)))


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with serving() as served:
        yield served


def parts_of(number: int) -> ImageParts:
    noise = random.Random(number)
    return an_image(layers=4, contents=tuple(noise.randbytes(400_000) for _ in range(4)))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, what a killed maker left counts as abandoned at once, not after a minute."""
    monkeypatch.setattr(sweep, "_ABANDONED_S", -1.0)


@pytest.fixture
def before() -> set[str]:
    """The empty cgroups that there are before the test."""
    return leaks.empty_cgroups()


def assert_at_rest(engine: Engine, home: Path, before: set[str]) -> None:
    """Nothing is half done, once what runs is removed: no name, directory, group or staging."""
    layout = Layout.default(home)
    for info in engine.containers():
        engine.container(info.id).remove(force=True)
    deadline = time.monotonic() + 20
    while (swept := engine.doctor(repair=True).swept) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert swept == ()
    left = {
        "containers": sorted(os.listdir(layout.containers)),
        "staging": sorted(os.listdir(layout.staging)),
        "names": sorted(os.listdir(layout.names)),
        "sockets": sorted(p.name for p in layout.run.glob("????????????.sock")),
    }
    assert left == {"containers": [], "staging": [], "names": [], "sockets": []}
    while (groups := leaks.empty_cgroups() - before) and time.monotonic() < deadline:
        time.sleep(0.1)  # others' come and go
    assert groups == set()


@pytest.mark.attack(70)
def test_kills_at_random_moments_of_runs(
    base_engine: Engine, base_home: Path, base_image: str, before: set[str]
) -> None:
    layout = Layout.default(base_home)
    chance = random.Random(SEED)
    for number in range(CRASHES):
        victim = crashes.VICTIMS[number % len(crashes.VICTIMS)]
        crashes.crash(crashes.RUN, base_home, layout.run, base_image, victim, chance)
        done = base_engine.run(base_image, ["echo", "healed"])
        assert done.stdout == b"healed\n", (victim, SEED, number)
        for info in base_engine.containers():
            base_engine.container(info.id).inspect()
    assert_at_rest(base_engine, base_home, before)


@pytest.mark.attack(70)
def test_kills_at_random_moments_of_pulls(
    base_engine: Engine, base_home: Path, fake, before: set[str]
) -> None:
    layout = Layout.default(base_home)
    chance = random.Random(SEED)
    for number in range(max(4, CRASHES // 5)):
        parts = parts_of(number)
        reference = fake.serve(parts, f"img{number}")
        crashes.crash(crashes.PULL, base_home, layout.run, reference, "client", chance)
        known = {str(name) for image in base_engine.images() for name in image.references}
        pulled = base_engine.pull(reference)
        assert len(pulled.layers) == 4, (SEED, number, reference in known)
        for layer, position in zip(pulled.layers, range(4), strict=True):
            path = layout.layers / layer.hex / "fs" / f"file{position}"
            assert path.stat().st_size == 400_000, (SEED, number)
        base_engine.remove_image(reference)
    assert_at_rest(base_engine, base_home, before)


@pytest.mark.attack(73)
def test_random_operations_of_many_processes(
    base_engine: Engine, base_home: Path, base_image: str, fake, before: set[str]
) -> None:
    pulls = [fake.serve(parts_of(number), f"img{number}") for number in range(3)]
    argv = [sys.executable, "-m", "support.operations", str(base_home), base_image]
    workers = [
        subprocess.Popen(
            [*argv, str(SEED + number), str(OPERATIONS), *pulls],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            text=True,
        )
        for number in range(PROCESSES)
    ]
    answers: dict[str, int] = {}
    unexpected: list[str] = []
    try:
        for worker in workers:
            output, _ = worker.communicate(timeout=60 + 5 * OPERATIONS)
            assert worker.returncode == 0
            report = json.loads(output.splitlines()[-1])
            unexpected += report["unexpected"]
            for answer, count in report["answers"].items():
                answers[answer] = answers.get(answer, 0) + count
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert not unexpected, "\n".join([f"seed {SEED}", *unexpected])
    assert sum(answers.values()) == PROCESSES * OPERATIONS
    assert answers.get("run done", 0) > 0
    assert_at_rest(base_engine, base_home, before)
    for reference in pulls:
        assert len(base_engine.pull(reference).layers) == 4
        base_engine.remove_image(reference)


@pytest.mark.attack(72)
def test_a_disk_that_fills_up_while_a_command_runs(tmp_path: Path) -> None:
    """The command is told ENOSPC; its end is recorded, and the next one runs after removal."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(mount)], check=True)
    try:
        with Engine.open(mount / "store") as engine:
            fill = "yes > /fill; echo status $?; ls -s /fill >&2; exit 3"
            request = RunRequest(
                argv=("sh", "-c", fill), name="filler", limits=Limits(memory="256m")
            )
            with engine.spawn(request) as attached:
                output, complaints, end = attached.communicate(None, most_bytes=100_000)
            assert output == b"status 1\n"
            assert b"No space left on device" in complaints
            assert (end.exit_code, end.verdict) == (3, None)
            known = engine.container("filler").inspect()
            assert (known.status, known.exit_code) == ("exited", 3)
            engine.container("filler").remove()
            assert engine.run(argv=["echo", "again"]).check().stdout == b"again\n"
            assert engine.containers() == ()
            layout = Layout.default(mount / "store")
        leaks.quiet(layout.home, layout.run, processes=0)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
