"""Images as an ordinary user, with and without subordinate ids: true owners, nothing left."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from support import capabilities, tars
from support.ordinary import OrdinaryUser
from support.registry import Registry

ACL = b"SCHILY.xattr.system.posix_acl_access"
READABLE_BY_1000 = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, who)
    for tag, rights, who in (
        *((0x01, 6, 2**32 - 1), (0x02, 4, 1000), (0x04, 4, 2**32 - 1)),
        *((0x10, 4, 2**32 - 1), (0x20, 4, 2**32 - 1)),
    )
)

ABOUT_PIP = ("PIP_", "SSL_", "REQUESTS_", "HTTP_", "HTTPS_", "NO_PROXY")


@pytest.fixture(scope="module", params=["subordinate", "single"])
def user(request: pytest.FixtureRequest) -> OrdinaryUser:
    name = "subordinate_user" if request.param == "subordinate" else "ordinary_user"
    found: OrdinaryUser = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="module")
def image(user: OrdinaryUser, registry: Registry, layered_layout: Path) -> str:
    reference = registry.push(layered_layout, "layered")
    said(user, "pull", reference)
    return reference


def said(user: OrdinaryUser, *argv: str) -> str:
    done = user.run_cellblock(*argv)
    assert done.returncode == 0, (argv, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def rows(user: OrdinaryUser, *argv: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(said(user, *argv, "--json"))
    return found


def top_layer(saved: Path) -> io.BytesIO:
    with tarfile.open(saved) as archive:

        def content(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (image,) = json.loads(content("manifest.json"))
        return io.BytesIO(content(image["Layers"][-1]))


def test_an_image_is_pulled_and_run(user: OrdinaryUser, image: str) -> None:
    assert said(user, "run", "--rm", image, "cat", "/srv/files/one") == "one\n"


WRITE = """
import os
os.mkdir("/srv/own", 0o750)
for name, owner, mode in (
    ("own/file", (1000, 50), 0o640), ("own/locked", (7, 8), 0), ("own/program", (0, 42), 0o6755),
    ("files/private", (3, 4), 0o600), ("files/one", (0, 0), 0o644),
):
    path = "/srv/" + name
    with open(path, "a") as file:
        file.write("written")
    os.chown(path, *owner)
    os.chmod(path, mode)
os.chown("/srv/own", 33, 34)
os.chmod("/srv/own", 0o1700)
os.link("/srv/own/file", "/srv/own/same")
os.unlink("/etc/debian_version")
"""
OWNERS = {
    "srv/own": (33, 34, 0o1700),
    "srv/own/file": (1000, 50, 0o640),
    "srv/own/same": (1000, 50, 0o640),
    "srv/own/locked": (7, 8, 0),
    "srv/own/program": (0, 42, 0o6755),
    "srv/files/private": (3, 4, 0o600),
    "srv/files/one": (0, 0, 0o644),
}


@pytest.fixture(scope="module")
def written(user: OrdinaryUser, image: str) -> str:
    said(user, "run", "--name", "written", image, "python3", "-c", WRITE)
    return "written"


@pytest.fixture(scope="module")
def committed(user: OrdinaryUser, written: str, registry: Registry) -> str:
    reference = f"{registry.host}/committed:1"
    said(user, "commit", written, reference)
    return reference


def owners_in(archive: Path) -> dict[str, tuple[int, int, int]]:
    with tarfile.open(archive) as file:
        entries = {entry.name.removeprefix("./").rstrip("/"): entry for entry in file}
    return {
        name: (entry.uid, entry.gid, entry.mode)
        for name, entry in entries.items()
        if name in OWNERS
    }


def test_what_was_written_is_told_with_its_packages(user: OrdinaryUser, written: str) -> None:
    rows = json.loads(said(user, "diff", "--json", written))
    changed = {row["path"]: row["change"] for row in rows}
    assert {f"/{name}" for name in OWNERS} | {"/etc/debian_version"} <= changed.keys()
    assert (changed["/srv/own"], changed["/srv/files/private"]) == ("A", "C")
    assert "user.cellblock" not in str(rows)
    packages = json.loads(said(user, "packages", "--json", "--container", written))
    assert "base-files" in {row["name"] for row in packages}


def test_owners_are_true_in_a_pushed_layer(
    user: OrdinaryUser, committed: str, registry: Registry
) -> None:
    said(user, "push", committed)
    look = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{committed}"]
    manifest = json.loads(subprocess.run(look, check=True, capture_output=True, timeout=60).stdout)
    assert owners_in(registry.blob(manifest["layers"][-1]["digest"])) == OWNERS


def test_owners_are_true_in_an_export(user: OrdinaryUser, written: str) -> None:
    flat = user.home / "flat.tar"
    said(user, "export", "-o", str(flat), written)
    assert owners_in(flat) == OWNERS
    with tarfile.open(flat) as file:
        assert file.getmember("etc/shadow").gid == 42
        assert not any("cellblock" in key for entry in file for key in entry.pax_headers)


def test_a_saved_image_is_loaded_as_it_was(user: OrdinaryUser, committed: str) -> None:
    archive = user.home / "images.tar"
    said(user, "save", "-o", str(archive), committed)
    before = said(user, "images", "-q", "--no-trunc")
    said(user, "rmi", committed)
    said(user, "load", "-i", str(archive))
    assert said(user, "images", "-q", "--no-trunc") == before
    assert said(user, "run", "--rm", committed, "tail", "-c7", "/srv/files/one") == "written"


COMMITS = """
import json
from cellblock_engine import Engine
with Engine.open() as engine:
    one = engine.commit("twice", "twice:1")
    since = engine.diff("twice", since_commit=True)
    two = engine.commit("twice", "twice:2")
    print(json.dumps([one.added is not None, len(since), two.added is None]))
"""


def test_a_commit_builds_on_the_one_before(user: OrdinaryUser, image: str) -> None:
    said(user, "run", "--name", "twice", image, "python3", "-c", WRITE)
    first = user.run_python(COMMITS)
    assert first.returncode == 0, first.stderr
    added, since, empty = json.loads(first.stdout)
    assert (added, since, empty) == (True, 0, True)
    said(user, "rm", "twice")
    said(user, "rmi", "-f", "twice:2", "twice:1")


def test_files_of_an_archive_become_an_image(user: OrdinaryUser) -> None:
    source = user.home / "files.tar"
    source.write_bytes(
        tars.archive(
            # What would name an owner is dropped, as is a list of users that one id has not.
            tars.pax({b"SCHILY.xattr.user.cellblock.owner": b"77:77", ACL: READABLE_BY_1000}),
            tars.file(b"closed/file", b"content", uid=1000, gid=50),
            tars.header(b"null", b"3", device=(1, 3)),  # a device, which only root can make
            tars.directory(b"closed/", mode=0, uid=5, gid=6),
            tars.directory(b"./", uid=9, gid=9, mode=0o711),
        )
    )
    source.chmod(0o644)
    said(user, "import", str(source), "files:1")
    saved = user.home / "saved.tar"
    said(user, "save", "-o", str(saved), "files:1")
    with tarfile.open(fileobj=top_layer(saved)) as file:
        found = {entry.name.rstrip("/"): (entry.uid, entry.gid) for entry in file}
    assert found == {".": (9, 9), "closed": (5, 6), "closed/file": (1000, 50)}
    # A container has the owner of the image's root from the beginning.
    said(user, "create", "--name", "of-files", "files:1", "/none")
    flat = user.home / "of-files.tar"
    said(user, "export", "-o", str(flat), "of-files")
    with tarfile.open(flat) as file:
        uids = {entry.name: entry.uid for entry in file}
    assert (uids["."], uids["closed"], uids["closed/file"]) == (9, 5, 1000)
    said(user, "rm", "of-files")
    said(user, "rmi", "files:1")


def test_an_owner_beyond_the_ids_of_the_user(user: OrdinaryUser) -> None:
    source = user.home / "beyond.tar"
    source.write_bytes(tars.archive(tars.file(b"file", b"", uid=1_000_700_000)))
    source.chmod(0o644)
    done = user.run_cellblock("import", str(source), "beyond:1")
    if not user.has_subordinate_ids:
        assert done.returncode == 0, done.stderr
        said(user, "create", "--name", "beyond", "beyond:1", "/none")
        flat = user.home / "beyond-flat.tar"
        said(user, "export", "-o", str(flat), "beyond")
        with tarfile.open(flat) as file:
            assert file.getmember("file").uid == 1_000_700_000
        said(user, "rm", "beyond")
        said(user, "rmi", "beyond:1")
    else:
        assert done.returncode == 125
        assert "belongs to 1000700000:0" in done.stderr
        assert "CELLBLOCK_STORE_IDS=single" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.timeout(300)  # an index of the internet may be slow
def test_an_image_without_ipykernel_gets_it(user: OrdinaryUser, image: str) -> None:
    capabilities.need_package_index()
    settings = {key: value for key, value in os.environ.items() if key.startswith(ABOUT_PIP)}
    install = ["-m", "cellblock", "kernel", "install", "--user", "--name", "prepared", image]
    done = user.run([user.python, *install], env=settings, timeout_s=280)
    assert done.returncode == 0, done.stderr
    spec = user.home / "data" / "jupyter" / "kernels" / "prepared" / "kernel.json"
    facts = json.loads(spec.read_text())["metadata"]["cellblock"]
    find = "import ipykernel, os; print(os.stat(ipykernel.__file__).st_uid)"
    assert said(user, "run", "--rm", facts["digest"], "python3", "-c", find) == "0\n"
    said(user, "kernel", "remove", "prepared")
    said(user, "rmi", facts["digest"])


def test_all_goes_in_the_end(user: OrdinaryUser, image: str) -> None:
    said(user, "run", "--name", "last", image, "python3", "-c", WRITE)
    store = user.home / "data" / "cellblock"
    usage = {row["kind"]: row for row in rows(user, "df")}
    assert usage["containers"]["size_bytes"] > 0
    names = [str(row["name"]) for row in rows(user, "ps", "-a")]
    said(user, "rm", *names)
    said(user, "image", "prune", "-a", "-f")
    for folder in ("layers", "chains", "containers", "blobs/sha256", "staging"):
        assert list((store / folder).iterdir()) == [], folder
    assert rows(user, "images") == []


KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from cellblock_engine import Engine
from cellblock_engine.layout import Layout

def kill(staging=Layout.default().staging):
    while not any(staging.glob("*/fs/srv/own")):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
with Engine.open() as engine:
    engine.commit("killed", "killed:1")
"""
LARGE = """
import os
os.mkdir("/srv/own")
for number in range(300):
    with open(f"/srv/own/{number}", "wb") as file:
        file.write(os.urandom(100000))
    os.chown(f"/srv/own/{number}", 5, 6)
os.chown("/srv/own", 5, 6)
"""


def test_a_commit_that_was_killed_leaves_nothing(user: OrdinaryUser, image: str) -> None:
    said(user, "run", "--name", "killed", image, "python3", "-c", LARGE)
    done = user.run_python(KILLED)
    assert done.returncode in (-9, 137)
    said(user, "commit", "killed", "killed:2")  # which sweeps
    assert list((user.home / "data" / "cellblock" / "staging").iterdir()) == []
    assert said(user, "run", "--rm", "killed:2", "ls", "/srv/own").count("\n") == 300
    said(user, "rm", "killed")
    said(user, "rmi", "killed:2")


def test_a_store_is_reset_whoever_its_files_belong_to(user: OrdinaryUser, image: str) -> None:
    said(user, "create", image)
    assert "Deleted containers: 1" in said(user, "system", "reset", "-f")
    assert not (user.home / "data" / "cellblock").exists()


def test_a_new_store_has_one_id_where_that_is_asked_for(user: OrdinaryUser) -> None:
    home = user.home / "of-one"
    command = [user.python, "-m", "cellblock"]
    look = ["run", "--rm", "host", "cat", "/proc/self/uid_map"]
    env = {"CELLBLOCK_HOME": str(home)}
    for asked in ({"CELLBLOCK_STORE_IDS": "single"}, {}):  # once it is made, it stays so
        done = user.run([*command, *look], env=env | asked)
        assert done.stdout.split() == ["0", str(user.uid), "1"], done.stderr
    assert user.run([*command, "system", "reset", "-f"], env=env).returncode == 0
    assert not home.exists()
