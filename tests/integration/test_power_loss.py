"""Power is lost in the middle of work: afterwards only what was synced is there.

The store is on an ext4 file system of its own, in a file. FS_IOC_SHUTDOWN without a flush of the
journal ends it (as xfstests' ``godown`` does): nothing of the page cache reaches the file any
more. ``CELLBLOCK_LOSSES`` is how often: 3 for ``make test``, 100 for ``make soak``.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cellblock_engine import ContainerNotFound, Engine
from cellblock_engine.layout import Layout
from cellblock_engine.runtime import sweep
from support import capabilities, leaks
from support.fakeregistry import FakeRegistry, ImageParts, an_image, serving

pytestmark = [
    pytest.mark.usefixtures("root"),
    pytest.mark.timeout(3600),
    pytest.mark.attack(71),
]

LOSSES = int(os.environ.get("CELLBLOCK_LOSSES", "3"))
SEED = int(os.environ.get("CELLBLOCK_SEED", str(time.time_ns() % 1_000_000)))
SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
WITHOUT_JOURNAL = struct.pack("I", 2)  # FS_SHUTDOWN_FLAGS_NOLOGFLUSH
LAYER_BYTES = 100_000
IMAGES = 4
WORK = """
import random, sys
from pathlib import Path
from cellblock_engine import Engine, RunRequest
engine, chance = Engine.open(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
print("go", flush=True)
for number in range(1000):
    reference = chance.choice(sys.argv[3:])
    engine.pull(reference)
    engine.run(argv=["sh", "-c", "echo x > /f"])
    engine.start(RunRequest(argv=("true",), name=f"kept{number}"))
    if chance.random() < 0.3:
        engine.remove_image(reference)
"""


class Disk:
    """A file system in a file, that can lose its power."""

    def __init__(self, directory: Path) -> None:
        self._image, self.mount = directory / "disk", directory / "mount"
        self.mount.mkdir()
        with self._image.open("wb") as file:
            file.truncate(512 * 2**20)
        subprocess.run(
            [capabilities.need_program("mkfs.ext4"), "-q", "-F", self._image], check=True
        )

    def attach(self) -> None:
        argv = ["mount", "-o", "loop", str(self._image), str(self.mount)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs loop devices: {done.stderr.strip()}")

    def detach(self) -> None:
        subprocess.run(["umount", self.mount], check=True)

    def lose_power(self) -> None:
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, WITHOUT_JOURNAL)
        finally:
            os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    made.attach()
    yield made
    with suppress(subprocess.CalledProcessError):
        made.detach()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with serving() as served:
        yield served


def contents(number: int) -> tuple[bytes, ...]:
    noise = random.Random(number)
    return tuple(noise.randbytes(LAYER_BYTES) for _ in range(4))


def image_parts(number: int) -> ImageParts:
    return an_image(layers=4, contents=contents(number))


def test_the_disk_loses_what_was_not_synced(disk: Disk) -> None:
    (disk.mount / "early").write_bytes(b"not synced")
    with (disk.mount / "synced").open("wb") as file:
        file.write(b"synced")
        file.flush()
        os.fsync(file.fileno())
    (disk.mount / "late").write_bytes(b"not synced")
    disk.lose_power()
    disk.detach()
    disk.attach()
    left = {path.name: path.read_bytes() for path in disk.mount.iterdir() if path.is_file()}
    assert left == {"early": b"", "synced": b"synced"}  # a name without its content


@pytest.mark.alone
def test_power_is_lost_while_images_are_pulled_and_containers_run(
    disk: Disk, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_ABANDONED_S", -1.0)  # at once, not after a minute
    chance = random.Random(SEED)
    layout = Layout.default(disk.mount / "store")
    pulls = [fake.serve(image_parts(number), f"img{number}") for number in range(IMAGES)]
    whole = {str(name): contents(number) for number, name in enumerate(pulls)}
    groups = leaks.empty_cgroups()
    for _ in range(LOSSES):
        work_until_power_is_lost(disk, layout, pulls, chance)
        with Engine.open(layout.home) as engine:
            for image in engine.images():
                for name in image.references:
                    assert_whole(layout, image.layers, whole[str(name)])
            for info in engine.containers():
                assert info.status in ("created", "exited"), SEED
                engine.container(info.id).inspect()
            for name in pulls:
                assert_whole(layout, engine.pull(name).layers, whole[name])
            assert engine.run(argv=["echo", "again"]).check().stdout == b"again\n"
            for info in engine.containers():
                with suppress(ContainerNotFound):
                    engine.container(info.id).remove(force=True)
            engine.remove_image(chance.choice(pulls))
            engine.doctor(repair=True)
            places = (layout.containers, layout.names, layout.staging)
            assert [os.listdir(place) for place in places] == [[], [], []], SEED
    end_of_engine(layout)
    # Their notes were lost with the disk, and in earnest so would they be.
    for group in leaks.empty_cgroups() - groups:
        group.rmdir()


def assert_whole(layout: Layout, layers: object, expected: tuple[bytes, ...]) -> None:
    found = tuple(
        (layout.layers / layer.hex / "fs" / f"file{position}").read_bytes()
        for position, layer in enumerate(layers)  # type: ignore[arg-type,var-annotated]
    )
    assert found == expected, SEED


def work_until_power_is_lost(
    disk: Disk, layout: Layout, pulls: list[str], chance: random.Random
) -> None:
    argv = [sys.executable, "-c", WORK, str(layout.home), str(chance.random())[2:8], *pulls]
    ended = threading.Event()
    others = threading.Thread(target=commit_now_and_then, args=(disk.mount, ended))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"go\n"
        others.start()
        time.sleep(chance.uniform(0.05, 2))
        disk.lose_power()
        ended.set()
        others.join()
        client.kill()
    end_of_engine(layout)
    disk.detach()
    disk.attach()


def commit_now_and_then(directory: Path, ended: threading.Event) -> None:
    """Sync a file of others: ext4 then commits all names, but not the content of files."""
    with suppress(OSError):  # the power is lost
        while not ended.wait(0.02):
            with (directory / "other").open("wb") as file:
                os.fsync(file.fileno())


def end_of_engine(layout: Layout) -> None:
    """No process and no socket outlives a loss of power."""
    for _ in range(100):
        pids = list(leaks.engine_pids(layout.home, layout.run))
        if not pids:
            break
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(layout.run, ignore_errors=True)
