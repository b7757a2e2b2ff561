"""What goes into which layer, and what into none."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cellblock_engine import Conflict, InvalidInput, InvalidLayer, Unsupported
from cellblock_engine.freezing import contents, system
from cellblock_engine.freezing.environment import ask
from cellblock_engine.freezing.plan import Plan, plan
from cellblock_engine.store import tar
from support.elves import elf, write

BASE = os.path.realpath(sys.executable)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment of this Python without a package."""
    place = tmp_path / "venv"
    subprocess.run([BASE, "-m", "venv", "--without-pip", place], check=True, timeout=60)
    return place


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out of the system what takes time to look at."""
    monkeypatch.setattr(system, "_TREES", ())


def site_of(venv: Path) -> Path:
    return next(venv.glob("lib/python*/site-packages"))


def planned(venv: Path, project: Path | None = None, forbidden: tuple[str, ...] = ()) -> Plan:
    return plan(ask(str(venv / "bin/python")), project and str(project), forbidden)


def layer(found: Plan, name: str) -> dict[str, object]:
    """Return the nodes of a layer by path; an image may have no such layer."""
    return {node.path: node for each in found.layers if each.name == name for node in each.nodes}


def everything(found: Plan) -> set[str]:
    return {node.path for each in found.layers for node in each.nodes}


def packed(found: Plan, name: str) -> dict[str, bytes]:
    """Return what is written of a layer's files."""
    files: dict[str, bytes] = {}
    last = ""
    for nodes in (each.nodes for each in found.layers if each.name == name):
        for each in contents.entries(nodes):
            if isinstance(each, tar.Entry):
                last = os.fsdecode(each.name)
                files[last] = b""
            else:
                files[last] += os.pread(each.fd, each.size, each.offset)
    return files


def test_a_virtual_environment_is_three_layers(venv, small, tmp_path):
    write(site_of(venv) / "package/__init__.py", b"")
    write(tmp_path / "project/src/mine/__init__.py", b"")
    write(site_of(venv) / "mine.pth", os.fsencode(tmp_path / "project/src") + b"\n")
    found = planned(venv)
    assert [each.name for each in found.layers] == ["interpreter", "packages", "project"]
    interpreter, packages = layer(found, "interpreter"), layer(found, "packages")
    assert {BASE, os.__file__, "/etc/passwd", "/etc/nsswitch.conf"} <= set(interpreter)
    assert not any(path.startswith(str(venv)) for path in interpreter)
    assert {f"{venv}/pyvenv.cfg", f"{site_of(venv)}/package/__init__.py"} <= set(packages)
    assert packages[f"{venv}/bin/python"].kind == tar.SYMLINK
    assert f"{tmp_path}/project/src/mine/__init__.py" in layer(found, "project")
    assert found.env[0].startswith(f"PATH={venv}/bin:{os.path.dirname(BASE)}:/usr/local/sbin:")
    # Every name is in a directory that the layer tells of, with the same attributes in each.
    for each in found.layers:
        paths = {node.path for node in each.nodes}
        assert all(os.path.dirname(path) in paths for path in paths)
    assert interpreter["/tmp"].mode == 0o1777
    assert packages["/tmp"] == interpreter["/tmp"]


def test_the_loader_and_the_libraries_are_in_the_interpreters_layer(venv, small):
    interpreter = layer(planned(venv), "interpreter")
    names = {os.path.basename(path) for path in interpreter}
    assert {"libc.so.6", "libgcc_s.so.1", "sh", "env"} <= names
    for path, node in interpreter.items():
        if node.kind == tar.SYMLINK and ".so" in path and "/config-" not in path:
            assert os.path.realpath(path) in interpreter, path


def test_a_second_plan_shares_the_interpreter(venv, small):
    before = planned(venv)
    assert planned(venv) == before
    write(site_of(venv) / "another.py", b"")
    after = planned(venv)
    assert after.layers[0] == before.layers[0]
    assert after.layers[1] != before.layers[1]


def test_credentials_and_what_is_no_file_stay_behind(venv, small, tmp_path):
    names = ("pip.conf", ".netrc", ".pypirc", ".env", "etc/jupyter/jupyter_server_config.json")
    for name in names:
        write(venv / name, b"password")
    write(venv / "etc/jupyter/jupyter_server_config.d/lab.json", b"{}")
    write(venv / "share/jupyter/runtime/kernel-1.json", b"key")
    write(venv / ".ssh/id_rsa", b"key")
    # what `pip install -e git+https://token@...` leaves, and `conda env config vars set`
    cloned = {"src/mine/.git/config", "src/mine/.env.local", "src/mine/key.pem", "conda-meta/state"}
    for name in (*cloned, "src/mine/mine.py"):
        write(venv / name, b"token")
    write(venv / "src/mine/mine.py", b"")
    about = site_of(venv) / "one-1.dist-info"
    write(about / "direct_url.json", json.dumps({"url": "https://me:token@example.org/x"}).encode())
    other = site_of(venv) / "two-1.dist-info"
    write(other / "direct_url.json", json.dumps({"url": "https://example.org/x"}).encode())
    third = site_of(venv) / "three-1.dist-info"
    write(third / "direct_url.json", json.dumps({"url": "https://e.org/x?sig=token"}).encode())
    os.mkfifo(venv / "pipe")
    with socket.socket(socket.AF_UNIX) as sock, contextlib.chdir(venv):  # its path is short
        sock.bind("socket")
    write(venv / "bin/setuid", b"#!/bin/sh\n")
    (venv / "bin/setuid").chmod(0o6755)
    found = planned(venv)
    files = packed(found, "packages")
    below = {path.removeprefix(f"{venv}/"[1:]) for path in files}
    assert not below & {*names, ".ssh/", ".ssh/id_rsa", "share/jupyter/runtime/", "pipe", "socket"}
    assert not below & cloned
    assert {"etc/jupyter/jupyter_server_config.d/lab.json", "src/mine/mine.py"} <= below
    assert f"{about}/direct_url.json"[1:] not in files
    assert f"{other}/direct_url.json"[1:] in files
    assert b"token" not in b"".join(files.values())
    assert layer(found, "packages")[f"{venv}/bin/setuid"].mode == 0o755


def test_a_project_goes_in_without_its_history_and_secrets(venv, small, tmp_path):
    project = tmp_path / "project"
    for name in (".git/config", ".env", "key.pem", ".venv/x", "other/pyvenv.cfg", "__pycache__/x"):
        write(project / name, b"")
    for name in ("notebook.ipynb", "src/mine.py", "data/credentials.csv"):
        write(project / name, b"")
    found = planned(venv, project)
    inside = {path.removeprefix(f"{project}/") for path in layer(found, "project")}
    assert {"notebook.ipynb", "src/mine.py", "data/credentials.csv"} <= inside
    assert not inside & {".git", ".env", "key.pem", ".venv", "other", "__pycache__"}
    assert found.working_dir == str(project)


def test_projects_that_are_installed_in_place_go_in(venv, small, tmp_path):
    """By a path, or by a hook as setuptools makes it."""
    write(tmp_path / "hooked/mine/__init__.py", b"")
    finder = f"MAPPING = {{'mine': {str(tmp_path / 'hooked/mine')!r}}}\n"
    write(site_of(venv) / "__editable___mine_1_finder.py", finder.encode())
    write(site_of(venv) / "__editable__.mine-1.pth", b"import __editable___mine_1_finder\n")
    found = planned(venv)
    assert f"{tmp_path}/hooked/mine/__init__.py" in layer(found, "project")


@pytest.mark.usefixtures("root")
def test_a_project_below_usr_is_a_project(venv, small):
    """As in Docker's own images of Python, which have it in /usr/src."""
    with tempfile.TemporaryDirectory(dir="/usr/src" if os.path.isdir("/usr/src") else "/usr") as at:
        write(Path(at) / "mine.py", b"")
        write(Path(at) / ".git/config", b"")
        write(site_of(venv) / "mine.pth", os.fsencode(at) + b"\n")
        found = planned(venv)
        assert f"{at}/mine.py" in layer(found, "project")
        assert f"{at}/.git" not in everything(found)


def test_a_home_on_the_path_stays_behind_and_is_named(venv, small, tmp_path, monkeypatch):
    home = tmp_path / "home"
    write(home / "private", b"")
    monkeypatch.setenv("HOME", str(home))
    write(site_of(venv) / "home.pth", os.fsencode(home) + b"\n")
    found = planned(venv)
    assert not any(path.startswith(str(home)) for path in everything(found))
    assert found.left_out == (f"{home}, on sys.path: is a home directory, or has one in it",)


def test_the_users_own_packages_are_found_inside(small, tmp_path, monkeypatch):
    base = "/usr/bin/python3"
    if not os.path.exists(base):
        pytest.skip(f"needs {base}")
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = [base, "-c", "import site; print(site.getusersitepackages())"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True)
    user_site = Path(said.stdout.strip())
    write(user_site / "own.py", b"")
    write(tmp_path / ".local/share/private", b"")
    write(tmp_path / ".config/pip/pip.conf", b"")
    found = plan(ask(base), None, ())
    below = {path for path in everything(found) if path.startswith(str(tmp_path))}
    assert f"{user_site}/own.py" in below
    assert all(path.startswith(str(user_site)) or str(user_site).startswith(path) for path in below)
    assert f"PYTHONUSERBASE={tmp_path}/.local" in found.env


def test_a_shared_prefix_is_not_taken_whole(small):
    base = "/usr/bin/python3"
    if not os.path.exists(base):
        pytest.skip(f"needs {base}")
    found = everything(plan(ask(base), None, ()))
    assert os.path.realpath(base) in found
    assert not found & {"/usr/bin/cp", "/usr/sbin", "/usr/share/doc", "/usr/include"} - {
        "/usr/sbin"
    }
    for private in ("/root/.", "/home/", "/etc/shadow", "/etc/ssh", "/etc/ssl/private"):
        assert not any(path.startswith(private) for path in found)


def test_of_what_is_left_out_nothing_below_is_in(venv, tmp_path):
    for name in (".ssh/config", ".git/config", "share/jupyter/runtime/deep/kernel.json"):
        write(venv / name, b"")
        write(tmp_path / "project" / name, b"")
    found = planned(venv, tmp_path / "project")
    inside = {path.removeprefix(str(venv)) for path in layer(found, "packages")}
    assert not inside & {"/.ssh/config", "/share/jupyter/runtime/deep/kernel.json"}
    inside = {path.removeprefix(f"{tmp_path}/project") for path in layer(found, "project")}
    assert not inside & {"/.ssh/config", "/.git/config"}
    assert not any("/zoneinfo/right" in path for path in everything(found))
    assert not any("/idlelib/idle_test" in path for path in everything(found))


def test_names_are_bytes_that_may_be_no_text(venv, small):
    name = b"odd\n\xff\\,:" + b"n" * 200
    write(Path(os.fsdecode(os.fsencode(site_of(venv)) + b"/" + name)), b"odd")
    files = packed(planned(venv), "packages")
    assert [each for path, each in files.items() if os.fsencode(path).endswith(name)] == [b"odd"]


def test_a_name_that_means_a_removal_is_refused(venv, small):
    write(site_of(venv) / ".wh.package", b"")
    with pytest.raises(InvalidLayer, match=r"'.*\.wh\.package' cannot be put in a layer"):
        planned(venv)


def test_links_on_the_way_are_links_inside(venv, small, tmp_path):
    (tmp_path / "behind").symlink_to("venv")
    found = plan(ask(str(tmp_path / "behind/bin/python")), None, ())
    assert layer(found, "packages")[f"{tmp_path}/behind"].link == "venv"
    assert f"{venv}/pyvenv.cfg" in everything(found)


def test_links_that_lead_out_stay_links(venv, small, tmp_path):
    write(tmp_path / "secret", b"of the host")
    (site_of(venv) / "link").symlink_to(tmp_path / "secret")
    (site_of(venv) / "folder").symlink_to("/etc")
    (site_of(venv) / "system").symlink_to("/usr")
    found = planned(venv)
    assert layer(found, "packages")[f"{site_of(venv)}/link"].link == f"{tmp_path}/secret"
    assert f"{tmp_path}/secret" not in everything(found)
    assert not everything(found) & {"/etc/hostname", "/etc/shadow", "/usr/bin/cp"}


def test_a_module_cannot_have_private_files_taken_for_libraries(venv, small, tmp_path):
    private = write(tmp_path / "private/libmine.so", elf())
    Path(private).chmod(0o600)
    write(tmp_path / "private/key", b"-----BEGIN PRIVATE KEY-----" + bytes(64))
    public = write(tmp_path / "public/libours.so", elf())
    needed = (private, str(tmp_path / "private/key"), public, "libnone.so.7")
    module = write(site_of(venv) / "module.so", elf(*needed))
    found = planned(venv)
    assert public in everything(found)
    assert not any(path.startswith(f"{tmp_path}/private") for path in everything(found))
    assert set(found.missing) == {f"{tmp_path}/private/key", "libnone.so.7"}
    assert found.left_out == (f"{private}, a library that others may not read",)
    assert found.missing["libnone.so.7"] == module


def test_libraries_that_a_wheel_brings_are_not_missing(venv, small):
    write(site_of(venv) / "wheel.libs/libinside-1.so", elf())
    write(site_of(venv) / "wheel/module.so", elf("libinside-1.so"))
    assert planned(venv).missing == {}


def test_what_changes_meanwhile_is_a_conflict(venv, small):
    file = Path(write(site_of(venv) / "module.py", b"one"))
    found = planned(venv)
    packed(found, "packages")
    file.write_bytes(b"longer")
    with pytest.raises(Conflict, match=r"module\.py' changed while it was read: try again$"):
        packed(found, "packages")
    file.unlink()
    with pytest.raises(Conflict, match="changed while it was read"):
        packed(found, "packages")
    file.symlink_to("/etc/passwd")
    with pytest.raises(Conflict, match="changed while it was read"):
        packed(found, "packages")


def test_a_store_inside_a_project_stays_behind(venv, small, tmp_path):
    write(tmp_path / "project/store/blobs/x", b"")
    write(tmp_path / "project/mine.py", b"")
    found = planned(venv, tmp_path / "project", (str(tmp_path / "project/store"),))
    assert f"{tmp_path}/project/mine.py" in everything(found)
    assert f"{tmp_path}/project/store" not in everything(found)


@pytest.mark.parametrize("name", ["none", "file", "home", "/", "/etc", "/usr"])
def test_a_project_that_is_none_is_refused(venv, small, tmp_path, monkeypatch, name):
    home = tmp_path / "home"
    home.mkdir()
    write(tmp_path / "file", b"")
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(InvalidInput, match=r"^the project '.*' is .*: give ") as refused:
        planned(venv, tmp_path / name)
    assert "\n" not in str(refused.value)


def test_a_prefix_that_is_a_home_is_refused(venv, small, monkeypatch):
    monkeypatch.setenv("HOME", str(venv))
    with pytest.raises(Unsupported, match=r"its prefix is a home directory, .*; use a virtual"):
        planned(venv)


def test_a_python_tells_what_it_is(venv):
    for name in ("one_thing-1.dist-info", "Other-2.0-py3.11.egg-info"):
        write(site_of(venv) / name / "METADATA", b"")
    found = ask(str(venv / "bin/python"))
    assert found.executable == str(venv / "bin/python")
    assert os.path.realpath(found.base_executable) == BASE
    assert found.prefixes == (str(venv),)
    assert found.is_virtual
    assert found.stdlib[0] == os.path.dirname(os.__file__)
    assert found.packages == ("one_thing", "other")
    assert found.version == platform.python_version()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        pytest.param("no-such-python", "there is no Python", id="no program"),
        pytest.param("/etc/passwd", "cannot be executed: Permission denied", id="no execute bit"),
        pytest.param("/", "cannot be executed", id="a folder"),
        pytest.param("/bin/true", "does not answer as Python 3 does", id="says nothing"),
        pytest.param("/bin/false", "exit status 1", id="fails"),
    ],
)
def test_what_is_no_python_is_refused(program, why):
    with pytest.raises(InvalidInput, match=why) as refused:
        ask(program)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "answer",
    ["[]", "{}", "1", '{"executable": 1}', "[" * 100_000, '"\\ud800"'],
    ids=["a list", "nothing", "a number", "no text", "deep", "a lone surrogate"],
)
def test_answers_are_not_believed(tmp_path, answer):
    liar = Path(write(tmp_path / "python", f"#!/bin/sh\ncat <<'E'\n{answer}\nE\n".encode()))
    liar.chmod(0o755)
    with pytest.raises(InvalidInput, match="does not answer as Python 3 does"):
        ask(str(liar))
