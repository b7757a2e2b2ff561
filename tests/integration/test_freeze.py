"""A notebook's Python environment as an image: it runs here, as a kernel, and under Docker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cellblock_engine import Engine, FreezeRequest, Frozen, StoreFull
from cellblock_engine.freezing import elf
from support import capabilities, kernels
from support.docker import Docker
from support.elves import write
from support.kernels import Site, install, installed, run
from support.notebook import Notebook
from support.ordinary import OrdinaryUser

Cellblock = Callable[..., subprocess.CompletedProcess[str]]

ENVIRONMENT = "mine/environment:1"
PACKAGES = "import pandas, numpy, IPython; print(pandas.DataFrame({'a': numpy.arange(4)}).a.sum())"
SYSTEM = """
import bz2, ctypes, curses, locale, lzma, os, pwd, socket, sqlite3, ssl, subprocess, zoneinfo
print(ssl.create_default_context().cert_store_stats()["x509_ca"] > 0)
print(zoneinfo.ZoneInfo("Europe/Berlin").key, locale.setlocale(locale.LC_ALL, "C.UTF-8"))
print(pwd.getpwuid(0).pw_name, socket.getservbyname("https"), oct(os.stat("/tmp").st_mode))
print(subprocess.check_output("echo $0 $LANG", shell=True, text=True).strip())
curses.setupterm("xterm"); socket.getaddrinfo("localhost", 80)
"""


LACKING = """
import os, subprocess, sys
loader, *folders = sys.argv[1:]
files = [(at, name) for f in folders for at, _, names in os.walk(f) for name in names]
for path in (os.path.join(*file) for file in files):
    if path.endswith(".so") or ".so." in path:
        done = subprocess.run([loader, "--list", path], capture_output=True, text=True)
        lines = (done.stdout + done.stderr).splitlines()
        print("read", *(line for line in lines if "not found" in line or "error" in line))
"""


@pytest.fixture(scope="module")
def site(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with kernels.site(tmp_path_factory.mktemp("freeze")) as made:
        yield made


@pytest.fixture(scope="module")
def engine(site: Site) -> Iterator[Engine]:
    with Engine.open(site.home) as opened:
        yield opened


@pytest.fixture(scope="module")
def frozen(engine: Engine) -> Frozen:
    """The environment of these tests, all of it."""
    return engine.freeze(ENVIRONMENT)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment of this Python without a package."""
    place = tmp_path / "venv"
    base = os.path.realpath(sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", place], check=True, timeout=60)
    return place


def of(venv: Path) -> FreezeRequest:
    return FreezeRequest(python=str(venv / "bin/python"))


def said(engine: Engine, image: str, *argv: str) -> str:
    """Return what a command printed, which did well."""
    done = engine.run(image, argv)
    assert (done.exit_code, done.stderr) == (0, b""), done
    return done.stdout.decode()


def test_its_packages_run_off_line(engine, frozen):
    assert said(engine, ENVIRONMENT, "python", "-c", PACKAGES) == "6\n"
    assert [layer.name for layer in frozen.frozen_layers][:2] == ["interpreter", "packages"]
    assert frozen.missing == {}
    assert frozen.config.cmd == ("python3",)
    assert frozen.config.labels["cellblock.freeze.python"] == ".".join(
        map(str, sys.version_info[:3])
    )


def test_the_system_around_it_is_there(engine, frozen):
    assert said(engine, ENVIRONMENT, "python3", "-c", SYSTEM).splitlines() == [
        "True",
        "Europe/Berlin C.UTF-8",
        "root 443 0o41777",
        "/bin/sh C.UTF-8",
    ]


def test_every_module_finds_the_libraries_it_needs(engine, frozen):
    """The loader itself is asked, of each shared library: inside, and on this machine."""
    with open(os.path.realpath(sys.executable), "rb") as program:
        found = elf.read(program.fileno())
    if found is None or found.interpreter is None or "ld-linux" not in found.interpreter:
        pytest.skip("needs a Python that glibc's loader starts")
    folders = (
        sysconfig.get_path("platlib"),
        os.path.join(os.path.dirname(os.__file__), "lib-dynload"),
    )
    argv = (sys.executable, "-c", LACKING, found.interpreter, *folders)
    here = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    assert here.count("read") > 100
    assert sorted(said(engine, ENVIRONMENT, *argv).splitlines()) == sorted(here.splitlines())


def test_it_is_the_same_python_and_its_scripts_run(engine, frozen):
    where = "import sys; print(sys.executable, sys.prefix, sys.base_prefix)"
    assert said(engine, ENVIRONMENT, "python", "-c", where).split() == [
        sys.executable,
        sys.prefix,
        sys.base_prefix,
    ]
    script = next(Path(sys.executable).parent.glob("ipython3"))
    import IPython

    assert said(engine, ENVIRONMENT, str(script), "--version").strip() == IPython.__version__


def test_its_compiled_modules_are_still_good(engine, frozen):
    """Times are kept: else each start would compile what it imports."""
    code = """if True:
        import json, os
        with open(json.__spec__.cached, "rb") as file:
            made_of = int.from_bytes(file.read(12)[8:], "little")
        print(os.stat(json.__file__).st_mtime_ns, made_of)
    """
    time_ns, made_of_s = map(int, said(engine, ENVIRONMENT, "python", "-c", code).split())
    assert time_ns == os.stat(json.__file__).st_mtime_ns
    assert made_of_s == time_ns // 10**9


@contextmanager
def archived(engine: Engine, image: str) -> Iterator[int]:
    """Give the end of a pipe that an image's archive comes out of."""
    source, sink = os.pipe()

    def save() -> None:
        with os.fdopen(sink, "wb") as stream:
            engine.save([image], stream)

    thread = threading.Thread(target=save)
    thread.start()
    try:
        yield source
    finally:
        os.close(source)
        thread.join()


def test_docker_runs_it(engine, frozen, docker: Docker):
    with archived(engine, ENVIRONMENT) as source:
        argv = docker.argv("load")
        subprocess.run(argv, stdin=source, check=True, capture_output=True, timeout=300)
    command = ("run", "--rm", "--network", "none", ENVIRONMENT, "python", "-c")
    try:
        assert docker(*command, PACKAGES) == "6\n"
        assert docker(*command, SYSTEM).splitlines()[0] == "True"
        assert docker("image", "inspect", "--format", "{{.Id}}", ENVIRONMENT).strip() == str(
            frozen.id
        )
    finally:
        docker("rmi", "--force", ENVIRONMENT)


def test_it_is_a_kernel(engine, frozen, site):
    done = install("--name", "frozen", ENVIRONMENT)
    assert "frozen" in installed(done)
    with site.kernel("frozen") as (_, kc):
        code = "import pandas, sys; print(sys.prefix, pandas.Series([1, 2]).sum())"
        assert run(kc, code) == f"{sys.prefix} 3\n"
        refused = run(kc, "%container freeze mine/other")
        assert "is not for a notebook whose kernel is in a container" in refused
        assert "commit" in refused
    site.assert_gone()


def test_its_layers_can_be_packed_again(engine, frozen):
    """So they can be pushed and saved: no blob of them is kept."""
    for diffid in frozen.layers:
        assert sum(map(len, engine._store.layers.archive(diffid))) > 0


def test_a_second_freeze_shares_what_has_not_changed(engine, venv):
    first = engine.freeze("mine/small:1", of(venv))
    assert engine.freeze("mine/small:2", of(venv)).layers == first.layers
    packages = next(venv.glob("lib/python*/site-packages"))
    write(packages / "another/__init__.py", b"name = 'another'\n")
    second = engine.freeze("mine/small:3", of(venv))
    assert second.layers[0] == first.layers[0]
    assert second.layers[1] != first.layers[1]
    code = "import another; print(another.name)"
    assert said(engine, "mine/small:3", "python", "-c", code) == "another\n"


def test_under_an_epoch_the_same_files_are_the_same_image(engine, venv):
    module = Path(write(next(venv.glob("lib/python*/site-packages")) / "mine.py", b"one = 1\n"))
    python = str(venv / "bin/python")
    made = []
    for time_s in (1_800_000_000, 1_900_000_000):
        os.utime(module, (time_s, time_s))
        subprocess.run([python, "-m", "compileall", "-q", module], check=True, timeout=60)
        made.append(engine.freeze("mine/epoch", FreezeRequest(python, epoch_s=1_700_000_000)))
    assert made[0].id == made[1].id
    assert made[0].created == datetime.fromtimestamp(1_700_000_000, UTC)
    code = "import mine, os; print(mine.one, int(os.stat(mine.__file__).st_mtime), mine.__cached__)"
    one, time_s, cached = said(engine, "mine/epoch", "python", "-c", code).split()
    assert (one, time_s) == ("1", "1700000000")
    assert Path(cached).exists()


def test_a_project_is_where_its_commands_start(engine, venv, tmp_path):
    project = tmp_path / "project"
    write(project / "mine.py", b"print('mine')\n")
    engine.freeze("mine/project", FreezeRequest(str(venv / "bin/python"), project))
    assert said(engine, "mine/project", "python", "-m", "mine") == "mine\n"
    assert (
        said(engine, "mine/project", "python", "-c", "import os; print(os.getcwd())")
        == f"{project}\n"
    )


def test_a_python_of_its_own_prefix_and_its_launcher(engine):
    """As pyenv and others have them: a whole prefix, and a program that starts the right one."""
    shims = Path.home() / ".pyenv/shims"
    versions = sorted(Path.home().glob(".pyenv/versions/3.1[0-9]*/bin/python3"))
    if not versions or not shims.is_dir():
        pytest.skip("needs pyenv with a Python of 3.10 or newer")
    version = versions[0].parents[1].name
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYENV_VERSION", version)
        engine.freeze("mine/pyenv", FreezeRequest(str(shims / "python3")))
    code = "import platform, ssl, sqlite3, lzma, sys; print(platform.python_version(), sys.prefix)"
    assert (
        said(engine, "mine/pyenv", "python", "-c", code) == f"{version} {versions[0].parents[1]}\n"
    )


def test_no_room_leaves_nothing(engine, venv, monkeypatch):
    def full(_: int) -> None:
        raise StoreFull("no space")

    before = (engine.images(), sorted(os.listdir(engine.home / "layers")))
    monkeypatch.setattr(engine._store.blobs, "check_room", full)
    with pytest.raises(StoreFull):
        engine.freeze("mine/full", of(venv))
    assert (engine.images(), sorted(os.listdir(engine.home / "layers"))) == before
    assert not os.listdir(engine.home / "staging")


def test_a_notebook_freezes_itself(site):
    """Its own environment, which is that of these tests: what would go in is told, no more."""
    notebook = Notebook(site.home)
    try:
        shown = notebook.run("%container freeze --explain").text()
        assert f"PATH={Path(sys.executable).parent}:" in shown
        refused = notebook.run("%container freeze --project / mine/none")
        assert refused.errors == [
            ["InvalidInput: the project '/' is a directory of the system: give a folder of its own"]
        ]
    finally:
        notebook.close()


def test_the_verb(site, venv, cellblock: Cellblock):
    python = str(venv / "bin/python")
    explained = cellblock("freeze", "--python", python, "--explain", home=site.home)
    assert explained.returncode == 0
    assert "layer interpreter:" in explained.stdout
    done = cellblock("freeze", "--python", python, "mine/verb:1", home=site.home)
    assert done.returncode == 0
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"docker.io/mine/verb:1: [\d.]+ MiB in [\d.]+ s", last)
    facts = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    with Engine.open(site.home) as engine:
        assert facts["image"].strip() == str(engine.image("mine/verb:1").id)
    assert {"interpreter", "packages"} <= set(facts)
    shown = cellblock("history", "mine/verb:1", "--json", home=site.home)
    steps = [row["created_by"] for row in json.loads(shown.stdout)]
    assert steps == ["cellblock freeze (packages)", "cellblock freeze (interpreter)"]
    for words, why in (
        (("freeze",), "give a name for it"),
        (("freeze", "--python", "/bin/true", "mine/none"), "does not answer as Python 3 does"),
        (("freeze", "--project", "/none", "mine/none"), "is no folder"),
        (("freeze", "host"), "this machine's own image"),
        (("freeze", "a@sha256:" + "0" * 64), "has a digest"),
    ):
        refused = cellblock(*words, home=site.home)
        assert (refused.returncode, refused.stdout) == (125, "")
        assert why in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_an_ordinary_user_freezes_too(engine, ordinary_user: OrdinaryUser):
    """Its images run where images do; this machine's Python is not root's alone."""
    base = "/usr/bin/python3"
    capabilities.need_program("python3")
    venv, archive = ordinary_user.home / "small", ordinary_user.home / "own.tar"
    assert ordinary_user.run([base, "-m", "venv", "--without-pip", venv]).returncode == 0
    write(venv / "unreadable", b"root's")
    (venv / "unreadable").chmod(0o600)
    done = ordinary_user.run_cellblock("freeze", "--python", f"{venv}/bin/python", "mine/own:1")
    assert done.returncode == 0, done.stderr
    assert "left out:" in done.stdout
    assert "files and folders that you may not read: 1" in done.stdout
    assert ordinary_user.run_cellblock("save", "-o", str(archive), "mine/own:1").returncode == 0
    engine.load(archive)
    assert (
        said(engine, "mine/own:1", "python", "-c", "import sys; print(sys.prefix)") == f"{venv}\n"
    )
