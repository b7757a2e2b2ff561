"""An engine for tests of the face: its containers are processes of this machine, unconfined.

What it must get right is the shape of the real one: names, dataclasses, descriptors, errors.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal

from cellblock_engine import (
    Change,
    Check,
    CommandNotFound,
    CommitRequest,
    Conflict,
    ContainerInfo,
    ContainerNotFound,
    Diagnosis,
    Digest,
    DiskUsage,
    EngineInfo,
    ExecRequest,
    ExecutedCell,
    Exit,
    Explanation,
    HistoryRow,
    Image,
    ImageConfig,
    ImageNotFound,
    ImportRequest,
    Limits,
    LogRecord,
    OutOfMemory,
    Package,
    PackageChange,
    Platform,
    Provenance,
    Pruned,
    Reference,
    RemovedImage,
    Reset,
    RunRequest,
    Settings,
    Stats,
    TimedOut,
    TransferEvent,
)
from cellblock_engine.commit import Commit

NOW = datetime.now(UTC)


class Attached:
    """A process with pipes."""

    def __init__(self, argv: tuple[str, ...], env: dict[str, str], *, interactive: bool) -> None:
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | env,
            start_new_session=True,
            restore_signals=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdin = self.process.stdin.fileno() if self.process.stdin else None
        self.stdout = self.process.stdout.fileno()
        self.stderr = self.process.stderr.fileno()
        self.verdict: Exception | None = None

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, timeout_s: float | None = None) -> Exit:
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        return Exit(status if status >= 0 else 128 - status, self.verdict)

    def close_stdin(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        self.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@dataclass
class Container:
    engine: FakeEngine
    facts: ContainerInfo

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def name(self) -> str:
        return self.facts.name

    def inspect(self) -> ContainerInfo:
        return self.facts

    def wait(self, timeout_s: float | None = None) -> Exit:
        if self.facts.exit_code is None:
            raise TimeoutError
        return Exit(self.facts.exit_code, None)

    def logs(self) -> tuple[LogRecord, ...]:
        return (
            LogRecord(NOW, "stdout", b"one\ntwo\n"),
            LogRecord(NOW, "stderr", b"three\n"),
        )

    def spawn_exec(self, request: ExecRequest) -> Attached:
        return Attached(request.argv, dict(request.env), interactive=request.interactive)

    def stats(self) -> Stats:
        if self.facts.status != "running":
            raise Conflict(f"container {self.name} is not running: it uses nothing")
        self.engine.readings += 1
        number = self.engine.readings
        return Stats(
            memory_bytes=48 << 20,
            memory_peak_bytes=60 << 20,
            memory_limit_bytes=self.facts.limits.memory_bytes,
            cpu_seconds=number * 0.1,
            cpus_limit=self.facts.limits.cpus,
            pids=3,
            pids_limit=4096,
            monotonic_s=number * 0.2,
        )

    def update(self, limits: Limits) -> Limits:
        self._note(f"update {limits}")
        return limits

    def _note(self, word: str) -> None:
        self.engine.done.append((word, self.name))

    def kill(self, signum: int = signal.SIGKILL) -> None:
        self._note(signal.Signals(signum).name)

    def stop(self, grace_s: float = 10) -> None:
        self._note(f"stop {grace_s:g}")

    def remove(self, force: bool = False) -> None:
        if self.facts.status == "running" and not force:
            raise Conflict(f"container {self.name} is running: stop it first, or use rm -f")
        self._note("rm")


def image(name: str, *, size_bytes: int = 123_456_789, age: timedelta = timedelta(days=3)) -> Image:
    digest = Digest.of(name.encode())
    return Image(
        id=digest,
        references=(Reference.parse(name),),
        manifest=Digest.of(b"manifest of " + name.encode()),
        created=NOW - age,
        size_bytes=size_bytes,
        platform=Platform.host(),
        layers=(Digest.of(b"layer"),),
        config=ImageConfig(),
    )


def container(
    name: str, status: Literal["created", "running", "exited"], **facts: Any
) -> ContainerInfo:
    known: dict[str, Any] = {
        "id": Digest.of(name.encode()).hex,
        "name": name,
        "image": "python:3.12-slim",
        "image_id": None,
        "argv": ("python3", "-c", "print('a long command')"),
        "status": status,
        "created_at": NOW - timedelta(hours=2),
        "started_at": None,
        "finished_at": None,
        "exit_code": None,
        "verdict": None,
        "pid": None,
        "network": "none",
        "hostname": name,
        "user": "",
        "workdir": "/",
        "limits": Limits(),
        "timeout_s": None,
        "labels": {},
    }
    return ContainerInfo(**(known | facts))


@dataclass
class FakeEngine:
    stored: list[Image] = field(default_factory=lambda: [image("python:3.12-slim")])
    boxes: list[ContainerInfo] = field(
        default_factory=lambda: [
            container("up", "running", started_at=NOW - timedelta(minutes=5), pid=77),
            container(
                "gone",
                "exited",
                started_at=NOW - timedelta(hours=1),
                finished_at=NOW - timedelta(minutes=50),
                exit_code=137,
                verdict="out of memory: the limit of 64 MiB was reached",
                limits=Limits(memory="64m", cpus=0.5, pids=64),
            ),
        ]
    )
    requests: list[RunRequest] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)
    commits: list[CommitRequest] = field(default_factory=list)
    readings: int = 0
    closed: int = 0
    logins: list[tuple[str, str, str]] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1

    def images(self, *, nameless: bool = False) -> tuple[Image, ...]:
        lost = replace(image("lost"), references=())
        return (*self.stored, lost) if nameless else tuple(self.stored)

    def history(self, name: str) -> tuple[HistoryRow, ...]:
        found = self.image(name)
        return (
            HistoryRow(NOW, 'CMD ["$python$"]', "", "", 0, None, None, "2-4", "+six 1.16"),
            HistoryRow(None, "RUN make\x1b[2J " * 9, "why", "Ada", 48_000_000, found.layers[0], 9),
        )

    def diff(self, name: str, *, since_commit: bool = False) -> tuple[Change, ...]:
        self.container(name)
        return (
            Change("C", "/etc", "directory", 0),
            Change("A", "/etc/\x1b[2J$x", "file", 2000),
            Change("D", "/usr", "directory", 4000),
        )

    def diff_images(self, one: str, other: str) -> tuple[Change, ...]:
        return () if self.image(one) == self.image(other) else self.diff("up")

    def provenance(self, name: str) -> tuple[Provenance | None, ...]:
        self.image(name)
        cells = (
            ExecutedCell(2, "import six\nsix\x1b[2J"),
            ExecutedCell(None, None, "secret"),
            ExecutedCell(4, "x" * 99),
        )
        return (Provenance("a.ipynb", cells), None)

    def packages(self, name: str) -> tuple[Package, ...]:
        self.image(name)
        return (
            Package("debian", "bash", "5.2", "/var/lib/dpkg/status"),
            Package("python", "numpy", "2.0", "/opt/\x1b[2J/site-packages"),
        )

    def container_packages(self, name: str) -> tuple[Package, ...]:
        self.container(name)
        return (Package("python", "numpy", "1.26", "/srv/site-packages"),)

    def package_changes(self, one: str, other: str) -> tuple[PackageChange, ...]:
        if self.image(one) == self.image(other):
            return ()
        return (
            PackageChange("changed", "python", "numpy", "1.26", "2.0", "/srv/site-packages"),
            PackageChange("added", "python", "six", None, "1.16", "/srv/site-packages"),
        )

    def disk_usage(self, *, keep: Collection[Digest] = ()) -> tuple[DiskUsage, ...]:
        return (
            DiskUsage("images", 2, 1, 200_000, 50_000),
            DiskUsage("containers", len(self.boxes), 1, 0, 0),
        )

    def prune(
        self,
        *,
        containers: bool = True,
        images: str | None = "tagged",
        keep: Collection[Digest] = (),
        dry_run: bool = False,
    ) -> Pruned:
        self.done.append((f"prune {containers} {images} {sorted(keep)}", str(dry_run)))
        return Pruned(("gone",), (Reference.parse("a:1"),), (Digest.of(b"a"),), 1500)

    def image(self, name: str) -> Image:
        for stored in self.stored:
            if name in (str(stored.id), *(reference.familiar for reference in stored.references)):
                return stored
        raise ImageNotFound(f"no image {name} here: pull it first")

    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        progress: Callable[[TransferEvent], None] | None = None,
    ) -> Image:
        if "missing" in reference:
            raise ImageNotFound(f"{reference}: the registry has no such image")
        pulled = replace(
            image(reference), platform=Platform.parse(platform) if platform else Platform.host()
        )
        self.done.append(("pull", reference))
        layer = pulled.layers[0]
        if progress is not None:
            progress(TransferEvent(reference, None, "resolving"))
            progress(TransferEvent(reference, layer, "downloading", 500, 1000))
            progress(TransferEvent(reference, layer, "extracting", 500, 1000))
            progress(TransferEvent(reference, layer, "done", 1000, 1000))
            progress(TransferEvent(reference, None, "done"))
        self.stored.insert(0, pulled)
        return pulled

    def push(
        self,
        reference: str,
        *,
        progress: Callable[[TransferEvent], None] | None = None,
        compression: str = "gzip",
    ) -> Image:
        found = self.image(reference)
        self.done.append(("push", f"{reference} {compression}"))
        layer = found.layers[0]
        if progress is not None:
            progress(TransferEvent(reference, None, "resolving"))
            progress(TransferEvent(reference, layer, "packing", 1000, 3000))
            progress(TransferEvent(reference, layer, "uploading", 500, 1000))
            progress(TransferEvent(reference, layer, "done", 1000, 1000))
            progress(TransferEvent(reference, None, "done"))
        return found

    def tag(self, source: str, target: str) -> Image:
        self.done.append(("tag", f"{source} {target}"))
        return self.image(source)

    def login(self, registry: str, username: str, password: str) -> str:
        self.logins.append((registry, username, password))
        return "kept in a test"

    def logout(self, registry: str) -> bool:
        return not registry

    def commit(
        self, name: str, reference: str | None = None, request: CommitRequest | None = None
    ) -> Commit:
        told = request or CommitRequest()
        if self.container(name).facts.status == "running":
            raise Conflict(f"container {name} is running: stop it first")
        self.commits.append(told)
        self.done.append(("commit", f"{name} {reference} {told.comment} {told.author}"))
        self.stored.insert(0, image(reference or f"{name}@{Digest.of(b'')}"))
        made = self.stored[0]
        return Commit(
            **vars(made), added=None, added_bytes=0, paused_s=0, provenance=told.provenance
        )

    def save(self, names: Sequence[str], target: Path | BinaryIO) -> None:
        assert isinstance(target, Path)
        self.done.append(("save", f"{' '.join(names)} {target}"))

    def export(self, name: str, target: Path | BinaryIO) -> None:
        assert isinstance(target, Path)
        self.done.append(("export", f"{self.container(name).facts.name} {target}"))

    def import_image(
        self, source: Path | BinaryIO, reference: str | None, request: ImportRequest
    ) -> Image:
        self.done.append(("import", f"{source} {reference} {request}"))
        return self.stored[0]

    def load(self, source: Path | BinaryIO) -> tuple[Image, ...]:
        assert isinstance(source, Path)
        self.done.append(("load", str(source)))
        return (image("mine/box:1"), image(f"localhost/nameless@sha256:{'a' * 64}"))

    def remove_image(self, name: str, *, force: bool = False) -> RemovedImage:
        found = self.image(name)
        self.stored.remove(found)
        return RemovedImage(found.references, (found.id,), found.size_bytes)

    @property
    def home(self) -> Path:
        return Path("/var/lib/cellblock")

    def reset(self, *, force: bool = False) -> Reset:
        running = [box.name for box in self.boxes if box.status == "running"]
        if running and not force:
            raise Conflict(f"containers are running ({running[0]})")
        return Reset(len(self.boxes), 1, 2, 1_234_567, ("thesis.tex",))

    def containers(self) -> tuple[ContainerInfo, ...]:
        return tuple(self.boxes)

    def container(self, name: str) -> Container:
        for box in self.boxes:
            if name == box.name or box.id.startswith(name):
                return Container(self, box)
        raise ContainerNotFound(f"no container {name}: see ps -a")

    def create(self, request: RunRequest) -> Container:
        self.requests.append(request)
        self.boxes.insert(0, container(request.name or "quiet_box", "created"))
        return Container(self, self.boxes[0])

    def start(self, request: RunRequest | str) -> Container:
        if isinstance(request, str):
            self.done.append(("start", request))
            return self.container(request)
        self.requests.append(request)
        box = replace(container(request.name or "quiet_box", "running"), argv=request.argv)
        self.boxes.insert(0, box)
        return Container(self, box)

    def spawn(self, request: RunRequest | str) -> Attached:
        if isinstance(request, str):
            return Attached(self.container(request).facts.argv, {}, interactive=False)
        self.requests.append(request)
        word = request.argv[0] if request.argv else "sh"
        if shutil.which(word) is None and word not in ("oom", "late"):
            raise CommandNotFound(f"{word}: not found in the container")
        argv = request.argv if word not in ("oom", "late") else ("sh", "-c", "kill -9 $$")
        attached = Attached(argv, dict(request.env), interactive=request.interactive)
        if word == "oom":
            attached.verdict = OutOfMemory(limit_bytes=1 << 26, peak_bytes=1 << 26, own=True)
        elif word == "late":
            attached.verdict = TimedOut(limit_s=1)
        return attached

    def replaced_limits(self, limits: Limits) -> dict[str, str]:
        return {} if limits.memory is None else {"memory": "less"}

    def explain(self, request: RunRequest) -> Explanation:
        return Explanation({"command": request.argv, "limits": ()})

    def doctor(self, *, repair: bool = False, quick: bool = False) -> Diagnosis:
        checks = (
            Check("kernel", "ok", "6.18"),
            Check("limit --cpus", "missing", "no cpu controller", "--cpus is refused", "mount it"),
        )
        stale = ("socket of 0123456789ab",)
        return Diagnosis(checks, swept=stale) if repair else Diagnosis(checks, stale=stale)

    def info(self) -> EngineInfo:
        return EngineInfo(
            home=Path("/var/lib/cellblock"),
            run=Path("/run/cellblock/0"),
            user=0,
            platform=Platform.host(),
            kernel="6.18",
            images=len(self.stored),
            containers=len(self.boxes),
            running=sum(box.status == "running" for box in self.boxes),
            missing_limits={"cpus": "no cpu controller"},
        )


if __name__ == "__main__":
    from cellblock.cli import command

    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    sys.exit(command(sys.argv[1:], FakeEngine))
