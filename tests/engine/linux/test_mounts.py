"""Files and directories made below a root that somebody else wrote."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine.linux import mounts


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A directory with an ``etc`` in it, beside a file that must stay alone, and its descriptor."""
    directory = tmp_path / "root"
    (directory / "etc").mkdir(parents=True)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    yield directory, fd
    os.close(fd)


def made(fd: int) -> tuple[int, int]:
    """Return the identity of what was opened, and close it."""
    status = os.fstat(fd)
    os.close(fd)
    return status.st_dev, status.st_ino


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


def test_a_missing_file_is_made_with_its_directories(root: tuple[Path, int]) -> None:
    directory, fd = root
    assert made(mounts.ensure_file(fd, b"/a/b/file")) == identity(directory / "a/b/file")


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("../run/systemd/resolve/stub-resolv.conf", "run/systemd/resolve/stub-resolv.conf"),
        ("/run/resolv.conf", "run/resolv.conf"),
        ("../../../../up.conf", "up.conf"),
        ("other.conf", "etc/other.conf"),
    ],
)
def test_a_link_that_leads_nowhere_is_followed_inside_the_root(
    root: tuple[Path, int], target: str, place: str
) -> None:
    directory, fd = root
    (directory / "etc/resolv.conf").symlink_to(target)
    assert made(mounts.ensure_file(fd, b"/etc/resolv.conf")) == identity(directory / place)
    assert (directory / "etc/resolv.conf").is_symlink()
    assert sorted(path.name for path in directory.parent.iterdir()) == ["root"]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("resolv.conf", errno.ELOOP),
        ("/proc/self/root/x", errno.ELOOP),
        ("/etc", errno.EISDIR),
        ("missing/..", errno.EINVAL),
    ],
)
def test_a_link_that_no_file_can_be_made_of_is_refused(
    root: tuple[Path, int], target: str, code: int
) -> None:
    directory, fd = root
    (directory / "proc").mkdir()
    (directory / "proc/self").symlink_to("/proc/self")
    (directory / "etc/resolv.conf").symlink_to(target)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is looked at
        mounts.ensure_file(fd, b"/etc/resolv.conf")
    assert raised.value.errno == code
