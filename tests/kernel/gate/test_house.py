"""From a kernel's options to a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellblock_engine import InvalidInput, Removal
from cellblock_kernel.gate import house
from cellblock_kernel.gate.options import GateOptions, KernelOptions
from cellblock_kernel.gate.room import INSIDE, Room


def asked(kernel, tmp_path, argv=("python3", "-f", "/run/user/c.json")):
    options = GateOptions(Path("/run/user/c.json"), kernel, tuple(argv))
    folder = tmp_path / "notebooks"
    folder.mkdir(parents=True)
    return house.request(options, Room(tmp_path / "room"), {}, folder), folder


def test_the_kernel_finds_its_own_connection_file(tmp_path):
    request, _ = asked(KernelOptions(), tmp_path)
    assert request.argv == ("python3", "-f", f"{INSIDE}/connection.json")


@pytest.mark.parametrize(("workspace", "writable"), [("rw", True), ("ro", False)])
def test_the_folder_is_at_its_own_path(tmp_path, workspace, writable):
    request, folder = asked(KernelOptions(workspace=workspace), tmp_path)
    assert request.workdir == str(folder)
    assert [each.writable for each in request.binds if each.target == str(folder)] == [writable]


def test_who_is_not_root_is_user_0_inside(monkeypatch, tmp_path):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert asked(KernelOptions(), tmp_path)[0].user == "0"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert asked(KernelOptions(), tmp_path / "other")[0].user is None


def test_without_a_workspace_only_the_room_is_shown(tmp_path):
    request, _ = asked(KernelOptions(workspace="none"), tmp_path)
    assert [each.target for each in request.binds] == [INSIDE]
    assert request.workdir is None


def test_a_kernel_goes_with_its_gate_unless_it_is_kept(tmp_path):
    assert asked(KernelOptions(), tmp_path)[0].removal is Removal.IF_ABANDONED


def test_what_is_kept_stays(tmp_path):
    assert asked(KernelOptions(keep=True), tmp_path)[0].removal is Removal.NEVER


def test_of_the_environment_only_what_is_no_secret_and_what_is_named_goes_in():
    environ = {"LANG": "C", "LC_ALL": "C", "TOKEN": "t", "PATH": "/x", "NAMED": "n=1"}
    environ |= {"COLUMNS": "80", "JPY_PARENT_PID": "4711"}
    kernel = KernelOptions(env=("A=b=c", "NAMED", "MISSING", "EMPTY="))
    assert house.environment(kernel, environ) == {
        "JPY_PARENT_PID": "1",
        "LANG": "C",
        "LC_ALL": "C",
        "COLUMNS": "80",
        "A": "b=c",
        "NAMED": "n=1",
        "EMPTY": "",
    }


@pytest.mark.parametrize("folder", ["/", "/home", "/home/user"])
def test_a_home_is_not_shown(monkeypatch, folder):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/user"))
    with pytest.raises(InvalidInput, match="--workspace none"):
        house.workspace(Path(folder), writable=True)


def test_a_folder_below_a_home_is(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/user"))
    assert house.workspace(Path("/home/user/n"), writable=True).target == "/home/user/n"


def test_hidden_folders_of_the_home_are_not_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path / ".ssh", tmp_path / ".config" / "deep"):
        with pytest.raises(InvalidInput, match="is a hidden one of your home directory"):
            house.workspace(folder, writable=False)
    for folder in (tmp_path / "n" / ".hidden", Path("/srv/.x")):
        assert house.workspace(folder, writable=False).target == str(folder)
