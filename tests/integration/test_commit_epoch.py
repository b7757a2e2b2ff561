"""Images that are equal, whenever and wherever they are made, under SOURCE_DATE_EPOCH."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from cellblock_engine import Bind, CommitRequest, Engine, InvalidInput, RunRequest
from support.commits import archived, ended

pytestmark = pytest.mark.usefixtures("root")

EPOCH_S = 1_700_000_000
SITE = "/usr/local/lib/demo"
FILES = {
    "demo/__init__.py": "from demo.inner import VALUE\n",
    "demo/inner/__init__.py": "VALUE = 'of the package'\n",
    "demo/data.txt": "data\n",
}
OLD = "os.utime('/srv/old', ns=(5, 1_600_000_000_123_456_789))"


@pytest.fixture
def engine(committing_engine: Engine) -> Engine:
    return committing_engine


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wheel") / "demo-1-py3-none-any.whl"
    about = {
        "demo-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1\n",
        "demo-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    names = [*FILES, *about, "demo-1.dist-info/RECORD"]
    record = {names[-1]: "".join(f"{name},,\n" for name in names)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (FILES | about | record).items():
            archive.writestr(name, text)
    return path


def install(engine: Engine, image: str, wheel: Path, name: str) -> None:
    """Have this Python's pip install the wheel in a container of the image."""
    pip = pytest.importorskip("pip", reason="needs the package pip")
    binds = (
        Bind(Path(pip.__file__).parent, "/mnt/pip", writable=False),
        Bind(wheel.parent, "/media", writable=False),
    )
    words = "python3 -m pip install --no-index --quiet --break-system-packages /media/"
    argv = f"{words}{wheel.name}".split()
    env = {"PYTHONPATH": "/mnt", "PIP_ROOT_USER_ACTION": "ignore"}
    request = RunRequest(image=image, argv=tuple(argv), binds=binds, env=env, name=name)
    with engine.spawn(request) as attached:
        _, stderr, end = attached.communicate(None, most_bytes=1 << 20)
    assert end.exit_code == 0, stderr


def test_two_containers_of_two_stores_give_one_image(
    engine: Engine, base_image: str, wheel: Path, tmp_path: Path
):
    request = CommitRequest(epoch_s=EPOCH_S)
    install(engine, base_image, wheel, "box")
    installed_s = time.time()
    first = engine.commit("box", "mine/box", request)
    with Engine.open(tmp_path / "store") as other:
        other.pull(base_image)
        while time.time() < installed_s + 1:  # the files' times are to differ by more than that
            time.sleep(0.05)
        install(other, base_image, wheel, "another")
        second = other.commit("another", "mine/box", request)
        assert (second.id, second.manifest) == (first.id, first.manifest)
        as_they_are = CommitRequest(squash=True)
        one, two = (
            other.commit("another", "now", as_they_are),
            engine.commit("box", "now", as_they_are),
        )
        assert one.added != two.added
        other.container("another").remove()
    assert first.created is not None
    assert first.created.timestamp() == EPOCH_S
    again = engine.commit("box", "mine/again", replace(request, squash=True))
    assert again.id == first.id


def test_compiled_python_still_counts(engine: Engine, base_image: str, wheel: Path):
    install(engine, base_image, wheel, "box")
    image = engine.commit("box", "mine/box", CommitRequest(epoch_s=EPOCH_S))
    assert image.added is not None
    headers = {}
    with tarfile.open(fileobj=io.BytesIO(archived(engine, image.added))) as layer:
        for member in layer:
            assert member.mtime <= EPOCH_S
            if member.name.endswith(".pyc"):
                file = layer.extractfile(member)
                assert file is not None
                headers[os.path.basename(os.path.dirname(os.path.dirname(member.name)))] = (
                    file.read(16)
                )
    assert sorted(headers) == ["demo", "inner"]
    assert {header[4:8] for header in headers.values()} == {b"\1\0\0\0"}
    for checked in ("default", "always"):
        command = ["python3", "--check-hash-based-pycs", checked, "-v", "-c", "import demo.inner"]
        ran = engine.run("mine/box", command).check()
        words = ran.stderr.decode()
        assert re.search(r"# code object from '.*/demo/inner/__pycache__/__init__\S*\.pyc'", words)
        assert len(re.findall(r"__pycache__/__init__\S*\.pyc matches /usr/local", words)) == 2


STALE = f"""
import os, py_compile, socket
os.makedirs("{SITE}")
for name in "fresh", "edited", "short":
    open(f"{SITE}/{{name}}.py", "w").write("VALUE = 1\\n")
    py_compile.compile(f"{SITE}/{{name}}.py")
    py_compile.compile(f"{SITE}/{{name}}.py", cfile=f"{SITE}/{{name}}.pyc")
open("{SITE}/edited.py", "w").write("VALUE = 2\\n")
os.utime("{SITE}/edited.py", (1_800_000_000, 1_800_000_000))
open("{SITE}/short.pyc", "wb").write(bytes(15))
os.symlink("SECRET", "{SITE}/stolen.py")
open("{SITE}/stolen.pyc", "wb").write(b"\\xa7\\r\\r\\n" + bytes(4) + bytes.fromhex("STAMP"))
os.rename("{SITE}/__pycache__/short.cpython-%d%d.pyc" % __import__("sys").version_info[:2],
          "{SITE}/__pycache__/gone.pyc")
open("/srv/old", "w"); {OLD}
"""


@pytest.mark.attack(32)
def test_what_did_not_fit_does_not_fit_then(engine: Engine, base_image: str, tmp_path: Path):
    """Bytecode of another source than the one that is there must not be run for it."""
    secret = tmp_path / "secret.py"
    secret.write_text("of the host")
    stamp = struct.pack("<II", int(secret.stat().st_mtime), secret.stat().st_size).hex()
    ended(engine, base_image, STALE.replace("SECRET", str(secret)).replace("STAMP", stamp))
    image = engine.commit("box", "mine/box", CommitRequest(epoch_s=EPOCH_S))
    assert image.added is not None
    flags, times = {}, {}
    with tarfile.open(fileobj=io.BytesIO(archived(engine, image.added))) as layer:
        for member in layer:
            times[member.name] = member.pax_headers.get("mtime", member.mtime)
            if member.name.endswith(".pyc"):
                file = layer.extractfile(member)
                assert file is not None
                flags[os.path.basename(member.name).split(".")[0]] = file.read(16)[4:8]
    by_time, by_hash = bytes(4), b"\1\0\0\0"
    assert flags == {
        "fresh": by_hash,
        "edited": by_time,
        "gone": by_time,
        "short": by_time,
        "stolen": by_time,
    }
    assert times["srv/old"] == "1600000000.123456789"
    assert times["srv"] == EPOCH_S
    code = "import fresh, edited; print(fresh.VALUE, edited.VALUE)"
    ran = engine.run("mine/box", ["python3", "-c", code], env={"PYTHONPATH": SITE}).check()
    assert ran.stdout == b"1 2\n"


def test_the_variable(engine: Engine, base_home: Path, base_image: str):
    ended(engine, base_image, "open('/new', 'w')")

    def commit(epoch: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "cellblock", "commit", "box", "mine/box"]
        env = {**os.environ, "CELLBLOCK_HOME": str(base_home), "SOURCE_DATE_EPOCH": epoch}
        return subprocess.run(argv, capture_output=True, check=False, text=True, env=env)

    done = commit(str(EPOCH_S))
    assert (done.returncode, done.stderr) == (0, "")
    created = engine.image("mine/box").created
    assert created is not None
    assert created.timestamp() == EPOCH_S
    for nonsense in ("yesterday", "-1", "1.5", "٣", "9" * 12, "9" * 5000):
        refused = commit(nonsense)
        assert (refused.returncode, refused.stdout) == (125, "")
        assert re.fullmatch(r"cellblock: SOURCE_DATE_EPOCH .* is not valid: .*\n", refused.stderr)
    assert commit("").returncode == 0
    with pytest.raises(InvalidInput, match="before the year 10000"):
        CommitRequest(epoch_s=2**50)
