"""Images from a registry and back to it: apt installs in one, and owners are true in its layer."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from collections.abc import Iterator

import pytest

from support.lab import Lab

INSTALL = """
set -e
echo "$1" > /etc/apt/sources.list
rm -rf /etc/apt/sources.list.d
apt-get update -q
apt-get install -q -y --no-install-recommends hello at uuid-runtime
hello --greeting='hello from the repository'
mkdir /srv/own
echo mine > /srv/own/file
chown 1000:50 /srv/own/file
chown uuidd: /srv/own
chmod 6750 /srv/own/file
id -u uuidd
"""
OWNERS = {  # Debian's own numbers: daemon is 1, staff 50
    "var/spool/cron/atjobs": (1, 1, 0o1770),
    "usr/bin/at": (1, 1, 0o6755),
    "etc/at.deny": (0, 1, 0o640),
    "usr/bin/hello": (0, 0, 0o755),
    "srv/own/file": (1000, 50, 0o6750),
}


@pytest.fixture(scope="module")
def installed(lab: Lab, repository: str) -> Iterator[tuple[str, int]]:
    """A container in which packages were installed, and the id of the user that one has made."""
    words = ["run", "--network", "host", "--name", "installing", lab.image]
    done = lab.run(*words, "sh", "-c", INSTALL, "sh", repository)
    assert done.returncode == 0, done.stderr[-3000:]
    *_, greeting, user = done.stdout.splitlines()
    assert greeting == "hello from the repository"
    yield "installing", int(user)
    lab.said("rm", "-f", "installing")


@pytest.fixture(scope="module")
def pushed(lab: Lab, installed: tuple[str, int]) -> tuple[str, int]:
    """The reference of an image in the registry, committed of that container; and that id."""
    name, user = installed
    reference = f"{lab.registry.host}/installed:1"
    lab.said("commit", name, reference)
    lab.said("push", reference)
    return reference, user


def test_what_is_pulled_is_what_the_registry_has(lab: Lab) -> None:
    look = ["skopeo", "inspect", "--tls-verify=false", f"docker://{lab.image}"]
    theirs = json.loads(subprocess.run(look, check=True, capture_output=True, timeout=60).stdout)
    (row,) = lab.rows("images")
    assert row["digest"] == theirs["Digest"]


def test_a_command_of_the_image_runs(lab: Lab) -> None:
    code = "import os, sys; print(os.getuid(), os.listdir('/sys/class/net')); sys.exit(7)"
    done = lab.run("run", "--rm", lab.image, "python3", "-c", code)
    assert (done.returncode, done.stdout) == (7, "0 ['lo']\n"), done.stderr


def test_apt_installs_packages_with_owners_and_users_of_their_own(
    lab: Lab, installed: tuple[str, int]
) -> None:
    name, user = installed
    assert 100 <= user < 1000
    changed = {row["path"] for row in lab.rows("diff", name)}
    assert {"/usr/bin/hello", "/usr/bin/at", "/etc/passwd"} <= changed


def test_owners_are_true_in_the_pushed_layer(lab: Lab, pushed: tuple[str, int]) -> None:
    reference, user = pushed
    look = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"]
    manifest = json.loads(subprocess.run(look, check=True, capture_output=True, timeout=60).stdout)
    assert len(manifest["layers"]) == 2
    with tarfile.open(lab.registry.blob(manifest["layers"][-1]["digest"])) as layer:
        entries = {entry.name.removeprefix("./").rstrip("/"): entry for entry in layer}
    found = {
        name: (entry.uid, entry.gid, entry.mode)
        for name, entry in entries.items()
        if name in OWNERS
    }
    assert found == OWNERS
    assert entries["srv/own"].uid == user


def test_a_pushed_image_is_pulled_again_and_runs(lab: Lab, pushed: tuple[str, int]) -> None:
    reference, user = pushed
    lab.said("rmi", reference)
    lab.said("pull", reference)
    words = ["run", "--rm", reference, "sh", "-c", "hello --greeting=again; id -u uuidd"]
    assert lab.said(*words) == f"again\n{user}\n"


def test_one_that_runs_is_committed_where_it_can_stand_still(
    lab: Lab, limits_are_enforced: bool
) -> None:
    write = "mkdir /srv/kept && chown 7:8 /srv/kept && echo done && exec sleep 600"
    lab.said("run", "-d", "--name", "going", lab.image, "sh", "-c", write)
    while "done" not in lab.said("logs", "going"):
        time.sleep(0.1)
    committed = lab.run("commit", "going", "going:1")
    if limits_are_enforced:
        assert committed.returncode == 0, committed.stderr
        assert lab.said("run", "--rm", "going:1", "ls", "/srv") == "kept\n"
        lab.said("rmi", "going:1")
    else:
        assert committed.returncode == 125
        assert "cannot be read while it runs: cannot freeze" in committed.stderr
        assert len(committed.stderr.splitlines()) == 1
    lab.said("rm", "-f", "going")
