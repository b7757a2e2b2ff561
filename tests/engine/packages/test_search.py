"""Packages of stacked directories: where they are looked for, and what hostile trees come to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cellblock_engine import Package, PackageChange, StoreError
from cellblock_engine.packages import search
from cellblock_engine.packages.search import changes, packages
from support import capabilities

SITE = "usr/local/lib/python3.12/site-packages"


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    return tree(tmp_path / "lower")


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    return tree(tmp_path / "upper")


def tree(path: Path) -> Path:
    path.mkdir()
    return path


def install(root: Path, name: str, version: str, site: str = SITE) -> Path:
    folder = root / site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n")
    return folder


def write(root: Path, path: str, content: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def whiteout(path: Path) -> None:
    capabilities.need_capability(capabilities.CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, 0o20600, os.makedev(0, 0))


def names(*stack: Path) -> list[str]:
    return [f"{package.kind} {package.name} {package.version}" for package in packages(stack)]


def test_environments_are_found_wherever_they_are(lower: Path):
    for number, site in enumerate(
        (
            SITE,
            "usr/lib/python3/dist-packages",
            "opt/conda/lib/python3.11/site-packages",
            "home/jovyan/.local/lib/python3.11/site-packages",
            "srv/project/.venv/lib/python3.11/site-packages",
        )
    ):
        install(lower, f"name{number}", "1", site)
    write(lower, f"{SITE}/old-2.egg-info/PKG-INFO", "Name: old\nVersion: 2\n")
    write(lower, f"{SITE}/older.egg-info", "Name: older\nVersion: 3\n")
    for passed_over in (
        f"{SITE}/setuptools/_vendor",
        "usr/share/site-packages",
        "tmp/site-packages",
    ):
        install(lower, "vendored", "1", passed_over)
    found = packages([lower])
    assert {package.name for package in found} == {*(f"name{n}" for n in range(5)), "old", "older"}
    assert (
        Package("python", "name4", "1", "/srv/project/.venv/lib/python3.11/site-packages") in found
    )


def test_databases_are_read(lower: Path):
    write(lower, "var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nVersion: 1\n\n")
    write(lower, "var/lib/dpkg/status.d/base", "Package: b\nVersion: 2\n")
    write(lower, "lib/apk/db/installed", "P:c\nV:3\n\n")
    assert packages([lower]) == [
        Package("alpine", "c", "3", "/lib/apk/db/installed"),
        Package("debian", "a", "1", "/var/lib/dpkg/status"),
        Package("debian", "b", "2", "/var/lib/dpkg/status.d"),
    ]


def test_what_an_upper_changes_is_what_differs(lower: Path, upper: Path):
    for name in ("kept", "numpy", "six"):
        install(lower, name, "1.0")
    write(lower, "var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nVersion: 1\n\n")
    install(upper, "pandas", "2.2")
    install(upper, "numpy", "2.0")
    whiteout(upper / SITE / "numpy-1.0.dist-info")
    whiteout(upper / SITE / "six-1.0.dist-info")
    place = f"/{SITE}"
    assert changes([lower], [lower, upper]) == [
        PackageChange("changed", "python", "numpy", "1.0", "2.0", place),
        PackageChange("added", "python", "pandas", None, "2.2", place),
        PackageChange("removed", "python", "six", "1.0", None, place),
    ]
    assert [change.short for change in changes([lower], [lower, upper])] == [
        "~numpy 1.0->2.0",
        "+pandas 2.2",
        "-six 1.0",
    ]
    back = {change.name: change.change for change in changes([lower, upper], [lower])}
    assert back == {"numpy": "changed", "pandas": "removed", "six": "added"}
    assert names(lower, upper) == [
        "debian a 1",
        "python kept 1.0",
        "python numpy 2.0",
        "python pandas 2.2",
    ]


def test_a_database_that_is_written_anew_differs_by_its_lines(lower: Path, upper: Path):
    one = "Package: a\nStatus: install ok installed\nVersion: 1\n\n"
    write(lower, "var/lib/dpkg/status", one)
    write(upper, "var/lib/dpkg/status", one + one.replace(" a", " b"))
    (found,) = changes([lower], [lower, upper])
    assert found.short == "+b 1"


def test_nothing_outside_of_the_tree_is_read(lower: Path, tmp_path: Path):
    outside = install(tmp_path / "outside", "secret", "9")
    status = write(
        tmp_path, "outside/status", "Package: s\nStatus: install ok installed\nVersion: 1\n"
    )
    site = lower / SITE
    site.mkdir(parents=True)
    (site / "linked-1.dist-info").symlink_to(outside)
    inner = site / "inner-1.dist-info"
    inner.mkdir()
    (inner / "METADATA").symlink_to(outside / "METADATA")
    (lower / "opt").symlink_to(tmp_path / "outside")
    (lower / "var/lib/dpkg").mkdir(parents=True)
    (lower / "var/lib/dpkg/status").symlink_to(status)
    assert names(lower) == ["python inner 1", "python linked 1"]


def test_what_is_no_file_is_not_waited_for(lower: Path):
    folder = install(lower, "foo", "1")
    (folder / "METADATA").unlink()
    os.mkfifo(folder / "METADATA")
    (lower / "var/lib/dpkg").mkdir(parents=True)
    os.mkfifo(lower / "var/lib/dpkg/status")
    assert names(lower) == ["python foo 1"]


def test_too_much_is_refused(lower: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "_MAX_PACKAGES", 2)
    for number in range(3):
        install(lower, f"name{number}", "1")
    with pytest.raises(StoreError, match="more than 2 packages"):
        packages([lower])
    status = write(lower, "var/lib/dpkg/status", "")
    os.truncate(status, (64 << 20) + 1)
    with pytest.raises(StoreError, match="larger than 64 MiB"):
        packages([lower])
