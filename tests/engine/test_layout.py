"""Where state lives, for whom."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine.layout import Layout
from support import capabilities
from support.ordinary import OrdinaryUser

TELL = """
import json, warnings
warnings.simplefilter("error")
from cellblock_engine.layout import Layout
layout = Layout.default()
print(json.dumps([str(layout.home), str(layout.run.parent), str(layout.kernels)]))
"""
SESSION = Path("/run/user")


@pytest.fixture
def without(ordinary_user: OrdinaryUser) -> Iterator[dict[str, str]]:
    """An environment without XDG_RUNTIME_DIR, for a user who has no session."""
    if (SESSION / str(ordinary_user.uid)).exists():
        pytest.skip("needs a user without a session")
    yield {"XDG_RUNTIME_DIR": ""}
    for path in (place(ordinary_user), kernels(ordinary_user)):
        shutil.rmtree(path, ignore_errors=True)


def place(user: OrdinaryUser) -> Path:
    return Path(f"/tmp/cellblock-{user.uid}")


def kernels(user: OrdinaryUser) -> Path:
    return Path(f"/tmp/cellblock-{user.uid}-kernels")


def told(user: OrdinaryUser, env: dict[str, str]) -> list[str]:
    done = user.run([user.python, "-c", TELL], env=env)
    assert done.stderr == ""
    where: list[str] = json.loads(done.stdout)
    return where


def test_of_an_ordinary_user(ordinary_user: OrdinaryUser) -> None:
    own = ordinary_user.environment
    assert told(ordinary_user, {}) == [
        f"{own['XDG_DATA_HOME']}/cellblock",
        f"{own['XDG_RUNTIME_DIR']}/cellblock",
        f"{own['XDG_RUNTIME_DIR']}/cellblock-kernels",
    ]


def test_without_a_session(ordinary_user: OrdinaryUser, without: dict[str, str]) -> None:
    assert told(ordinary_user, without)[1:] == [
        str(place(ordinary_user)),
        str(kernels(ordinary_user)),
    ]
    argv = [ordinary_user.python, "-m", "cellblock", "run", "--rm", "host", "echo", "on"]
    done = ordinary_user.run(argv, env=without)
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")
    status = place(ordinary_user).stat()
    assert (status.st_uid, status.st_mode & 0o022) == (ordinary_user.uid, 0)
    (of_the_store,) = place(ordinary_user).iterdir()
    assert of_the_store.stat().st_mode & 0o777 == 0o700


@pytest.mark.attack(65)
@pytest.mark.parametrize("trap", ["directory", "link"])
def test_a_directory_that_somebody_else_was_first_to_make_is_refused(
    root: None, ordinary_user: OrdinaryUser, without: dict[str, str], tmp_path: Path, trap: str
) -> None:
    other = 12399
    if trap == "directory":
        place(ordinary_user).mkdir(mode=0o777)
        place(ordinary_user).chmod(0o777)
    else:
        meant = ordinary_user.home / "meant"
        meant.mkdir(mode=0o700, exist_ok=True)
        os.chown(meant, ordinary_user.uid, ordinary_user.uid)
        place(ordinary_user).symlink_to(meant)
    os.chown(place(ordinary_user), other, other, follow_symlinks=False)
    try:
        argv = [ordinary_user.python, "-m", "cellblock", "run", "--rm", "host", "true"]
        done = ordinary_user.run(argv, env=without)
        assert (done.returncode, done.stdout) == (125, "")
        assert len(done.stderr.splitlines()) == 1
        argv = [ordinary_user.python, "-m", "cellblock", "doctor", "--json"]
        done = ordinary_user.run(argv, env=without)
        rows = {row["name"]: row for row in json.loads(done.stdout)}
        assert (done.returncode, rows["runtime directory"]["status"]) == (1, "missing")
        assert "XDG_RUNTIME_DIR" in rows["runtime directory"]["remedy"]
    finally:
        if trap == "link":
            place(ordinary_user).unlink()


def test_another_users_session_is_not_used(
    root: None, ordinary_user: OrdinaryUser, without: dict[str, str], tmp_path: Path
) -> None:
    """As ``sudo -u`` can leave it."""
    assert told(ordinary_user, {"XDG_RUNTIME_DIR": "/run"})[1] == str(place(ordinary_user))
    assert told(ordinary_user, {"XDG_RUNTIME_DIR": "run"})[1] == str(place(ordinary_user))


def test_user_0_of_a_namespace_that_is_not_the_machines(ordinary_user: OrdinaryUser) -> None:
    capabilities.need_program("unshare")
    inside = ["unshare", "--user", "--map-root-user", str(ordinary_user.python), "-c"]
    done = ordinary_user.run([*inside, TELL])
    own = ordinary_user.environment
    assert json.loads(done.stdout)[:2] == [
        f"{own['XDG_DATA_HOME']}/cellblock",
        f"{own['XDG_RUNTIME_DIR']}/cellblock",
    ], done.stderr
    runs = "from cellblock_engine.layout import Layout; print(Layout.default().run)"
    outside = ordinary_user.run([ordinary_user.python, "-c", runs]).stdout
    assert ordinary_user.run([*inside, runs]).stdout != outside


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("release", "kernels"),
    [((6, 3), "/run/cellblock-kernels"), ((6, 1), "/var/lib/cellblock-kernels")],
)
def test_of_root(monkeypatch: pytest.MonkeyPatch, release: tuple[int, int], kernels: str) -> None:
    monkeypatch.delenv("CELLBLOCK_HOME", raising=False)
    monkeypatch.setattr("cellblock_engine.layout._release", lambda: release)
    layout = Layout.default()
    assert [layout.home, layout.run.parent, layout.kernels] == [
        Path("/var/lib/cellblock"),
        Path("/run/cellblock"),
        Path(kernels),
    ]
