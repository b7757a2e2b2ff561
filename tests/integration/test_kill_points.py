"""SIGKILL at each system call that changes something, by strace's fault injection.

``CELLBLOCK_POINTS`` is how many calls of each case are struck: 2 for ``make test``, 50 for
``make soak``. After each, the next command finds all or nothing, and heals.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cellblock_engine import ContainerNotFound, Engine, ImageNotFound, RunRequest
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import sweep
from support import capabilities
from support.fakeregistry import FakeRegistry, ImageParts, an_image, serving

pytestmark = [
    pytest.mark.usefixtures("root"),
    pytest.mark.timeout(3600),
    pytest.mark.attack(70),
]

POINTS = int(os.environ.get("CELLBLOCK_POINTS", "2"))
FILES = 20
MUTATING = (
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,"
    "fsync,ftruncate,fchmod,fchown,fchownat,flock,utimensat,sendmsg"
)
PRELUDE = """
import sys
from pathlib import Path
import cellblock_engine.registry.pull
from cellblock_engine import Engine, RunRequest
engine, name = Engine.open(Path(sys.argv[1])), sys.argv[2]
"""
CASES = {
    "pull": "engine.pull(name)",
    "rmi": "engine.remove_image(name)",
    "run": "engine.run(name, ['sh', '-c', 'for n in $(seq 20); do echo > /srv/$n; done'])",
    "rm": "engine.container('struck').remove(force=True)",
}


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with serving() as served:
        yield served


def strike(program: str, home: Path, name: str, point: int) -> int:
    """Run a client that is killed at its ``point``-th changing call; return its status."""
    strace = capabilities.need_program("strace")
    inject = f"inject={MUTATING}:signal=SIGKILL:when={point}"
    argv = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={MUTATING}", "-e", inject]
    done = subprocess.run(
        [*argv, sys.executable, "-B", "-c", PRELUDE + program, str(home), name],
        check=False,
        capture_output=True,
        timeout=120,
    )
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


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_change(
    base_engine: Engine,
    base_home: Path,
    base_image: str,
    fake: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    monkeypatch.setattr(sweep, "_ABANDONED_S", -1.0)  # at once, not after a minute
    base_engine.run(base_image, ["true"]).check()  # the spawner is nobody's child here
    killed = 0
    for point in range(1, POINTS + 1):
        reference = base_image
        if case in ("pull", "rmi"):
            reference = fake.serve(parts_of(point), f"{case}{point}")
        if case == "rmi":
            base_engine.pull(reference)
        if case == "rm":
            with suppress(ContainerNotFound):
                base_engine.container("struck").remove(force=True)
            argv = ("sh", "-c", "for n in $(seq 20); do echo > /srv/$n; done; sleep 60")
            base_engine.start(RunRequest(image=base_image, argv=argv, name="struck"))
        status = strike(CASES[case], base_home, reference, point)
        killed += status == -9 or status == 137
        if case in ("pull", "rmi"):
            assert_whole(base_engine, base_home, reference)
            base_engine.remove_image(reference)
            with pytest.raises(ImageNotFound):
                base_engine.image(reference)
        done = base_engine.run(base_image, ["echo", "healed"])
        assert done.stdout == b"healed\n", (case, point)
        if status == 0:
            break
    assert killed, "it was struck at least once"
    for info in base_engine.containers():
        with suppress(ContainerNotFound):
            base_engine.container(info.id).remove(force=True)
    base_engine.doctor()
    layout = Layout.default(base_home)
    left = [sorted(os.listdir(p)) for p in (layout.containers, layout.names, layout.staging)]
    assert left == [[], [], []], (case, "containers, names, staging")
