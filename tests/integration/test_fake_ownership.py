"""Containers of one id: who changes owners hears that it is done, and it is written down."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

import pytest

from support import capabilities
from support.debs import DebFile, deb
from support.ordinary import OrdinaryUser
from support.recorded import recorded

OWNERS = """
def file(name, mode=0o644):
    os.close(os.open(name, os.O_CREAT, mode))
    return name

os.chdir("/srv")
os.chown(file("file"), 33, 44)
os.chown(file("group"), -1, 44)
os.chown(file("user"), 33, -1)
os.chown("user", -1, 7)
os.chown(file("largest"), 65535, 65535)
os.chown(file("returned"), 33, 44)
os.chown("returned", 0, -1)
os.chown("returned", -1, 0)
os.mkdir("folder")
os.chown("folder", 1, 2)
os.chown(file("folder/below"), 3, 4)
folder = os.open("folder", os.O_RDONLY)
file("folder/relative")
os.chown("relative", 5, 6, dir_fd=folder)
os.fchown(folder, 8, 9)
unreadable = os.open(file("open", 0), os.O_RDWR)
os.fchown(unreadable, 10, 11)
os.symlink("folder", "link")
os.chown("link/below", 12, 13)
os.symlink("/srv/group", "other")
os.chown("other", 14, 15, follow_symlinks=False)
os.chown("other", 14, -1)
os.link("file", "twin")
os.chown("twin", 16, 17)
os.chown(f"/proc/self/fd/{unreadable}", -1, 18)
number = 260 if X86 else 54
syscall(number, number, folder, b"", 19, -1, 0x1000)
os.rename("largest", "renamed")
os.mkfifo("fifo")
os.chown("fifo", 1, 1)
os.chown("/dev/stdout", 1, 1)
os.chown("/dev/null", 1, 1)
os.chown("/dev/shm", 1, 1)
outcome = {name: os.stat(name).st_uid for name in os.listdir()}
outcome["fds"] = os.listdir("/proc/self/fd")
os.fchmod(unreadable, 0o600)  # for who looks at it from outside
"""


def test_owners_are_written_down_and_the_files_stay_roots(ordinary_user: OrdinaryUser) -> None:
    seen = recorded(ordinary_user, OWNERS)
    # The two that were opened, the streams and that of the listing: no listener among them.
    assert len(seen.outcome.pop("fds")) == 6
    assert set(seen.outcome.values()) == {0}
    assert seen.owners == {
        "/srv/file": "16:17",
        "/srv/twin": "16:17",
        "/srv/group": "14:44",
        "/srv/user": "33:7",
        "/srv/renamed": "65535:65535",
        "/srv/folder": "19:9",
        "/srv/folder/below": "12:13",
        "/srv/folder/relative": "5:6",
        "/srv/open": "10:18",
    }


REFUSED = """
import mmap
os.chdir("/srv")
open("file", "w").close()
os.symlink("circle", "circle")
def at(place, path, flags=0, uid=1, gid=1):
    return syscall(260 if X86 else 54, 260 if X86 else 54, place, path, uid, gid, flags)
attempt("missing", lambda: os.chown("missing", 1, 1))
attempt("dangling", lambda: os.chown("/proc/nobody/x", 1, 1))
attempt("below a file", lambda: os.chown("file/x", 1, 1))
attempt("circle", lambda: os.chown("circle", 1, 1))
attempt("empty", lambda: at(-100, b""))
attempt("null", lambda: at(-100, 0))
attempt("flags", lambda: at(-100, b"file", 0x2000))
attempt("closed", lambda: os.fchown(99, 1, 1))
attempt("negative", lambda: at(-7, b"file"))
attempt("only named", lambda: os.fchown(os.open("file", os.O_PATH), 1, 1))
attempt("user beyond", lambda: os.chown("file", 65536, 1))
attempt("group beyond", lambda: os.chown("file", 1, 2**32 - 2))
attempt("read-only", lambda: os.chown("/bound/file", 1, 1))
attempt("kernel", lambda: os.chown("/proc/sys/kernel/hostname", 1, 1))
attempt("name", lambda: os.chown("n" * 256, 1, 1))
"""


def test_what_cannot_be_done_is_said(ordinary_user: OrdinaryUser) -> None:
    before = "Path('ro').mkdir(exist_ok=True); Path('ro/file').touch()"
    binds = "(Bind(Path('ro').absolute(), '/bound', writable=False),)"
    seen = recorded(ordinary_user, REFUSED, before=before, binds=binds)
    assert seen.owners == {}
    assert seen.outcome == {
        "missing": "ENOENT",
        "dangling": "ENOENT",
        "below a file": "ENOTDIR",
        "circle": "ELOOP",
        "empty": "ENOENT",
        "null": "EFAULT",
        "flags": "EINVAL",
        "closed": "EBADF",
        "negative": "EBADF",
        "only named": "EBADF",
        "user beyond": "EINVAL",
        "group beyond": "EINVAL",
        "read-only": "EROFS",
        "kernel": "EROFS",
        "name": "ENAMETOOLONG",
    }


IDS = """
import stat
for name in ("setuid", "setgid", "seteuid", "setegid"):
    attempt(name, lambda: getattr(os, name)(33))
attempt("setreuid", lambda: os.setreuid(33, 33))
attempt("setregid", lambda: os.setregid(33, 33))
attempt("setresuid", lambda: os.setresuid(33, 33, 33))
attempt("setresgid", lambda: os.setresgid(33, 33, 33))
attempt("setgroups", lambda: os.setgroups([33, 44]))
attempt("setfsuid", lambda: syscall(122, 151, 33))
attempt("mknod", lambda: os.mknod("/srv/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0)))
outcome["made"] = os.path.lexists("/srv/disk")
attempt("fifo", lambda: os.mknod("/srv/fifo", stat.S_IFIFO | 0o600))
outcome["fifo made"] = stat.S_ISFIFO(os.stat("/srv/fifo").st_mode)
outcome["ids"] = [*os.getresuid(), *os.getresgid()]
"""


def test_changes_of_ids_are_answered_as_done(ordinary_user: OrdinaryUser) -> None:
    outcome = recorded(ordinary_user, IDS).outcome
    assert (outcome.pop("made"), outcome.pop("fifo made")) == (False, True)
    assert outcome.pop("ids") == [0] * 6
    assert set(outcome.values()) == {"allowed"}
    assert len(outcome) == 12


SET_IDS = """
open("/srv/program", "w").close()
os.chmod("/srv/program", 0o6755)
os.setxattr("/srv/program", "security.capability",
            bytes.fromhex("0100000200040000000000000000000000000000"))
os.chown("/srv/program", 33, 33)
outcome["mode"] = os.stat("/srv/program").st_mode & 0o7777
outcome["attributes"] = os.listxattr("/srv/program")
os.chmod("/srv/program", 0o4755)
outcome["mode set after it"] = os.stat("/srv/program").st_mode & 0o7777
"""


def test_a_new_owner_takes_set_id_bits_and_capabilities(ordinary_user: OrdinaryUser) -> None:
    assert recorded(ordinary_user, SET_IDS).outcome == {
        "mode": 0o755,
        "attributes": ["user.cellblock.owner"],
        "mode set after it": 0o4755,
    }


def test_who_may_not_change_owners_is_refused(ordinary_user: OrdinaryUser) -> None:
    script = "mkdir /srv/d && chown 0 /srv/d && chown 33 /srv/d"
    done = ordinary_user.run_cellblock(
        "run", "--rm", "--cap-drop", "CHOWN", "host", "sh", "-c", script
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("changing ownership of '/srv/d': Invalid argument\n")


def test_every_command_of_a_container_has_it(ordinary_user: OrdinaryUser) -> None:
    name = "several"
    run = ordinary_user.run_cellblock
    assert run("run", "-d", "--name", name, "host", "sleep", "60").returncode == 0
    try:
        for number in ("1", "2", "3"):
            script = f"touch /srv/{number} && chown {number}:7 /srv/{number}"
            done = run("exec", name, "sh", "-c", script)
            assert (done.returncode, done.stderr) == (0, "")
        missing = run("exec", name, "/srv/nothing")
        assert missing.returncode == 127
        look = run("exec", name, "sh", "-c", "ls -l /proc/*/fd | grep -c seccomp")
        assert look.stdout == "0\n"
    finally:
        run("rm", "-f", name)


def test_the_plan_of_a_start_tells_of_it(ordinary_user: OrdinaryUser) -> None:
    plan = ordinary_user.run_cellblock("run", "--explain", "host", "true").stdout
    assert "  seccomp: to other ids and owners is answered as done; owners are recorded\n" in plan


@pytest.fixture(scope="module")
def debian(ordinary_user: OrdinaryUser, base_image: str) -> Iterator[str]:
    """An image of Debian with its package tools, in the user's own store."""
    pulled = ordinary_user.run_cellblock("pull", base_image)
    assert pulled.returncode == 0, pulled.stderr
    yield base_image
    ordinary_user.run_cellblock("rmi", "-f", base_image)


def exported(user: OrdinaryUser, container: str) -> dict[str, tuple[int, int, int]]:
    """Return who owns what, and the modes, as a container's archive says."""
    archive = user.home / "flat.tar"
    done = user.run_cellblock("export", "-o", str(archive), container)
    assert done.returncode == 0, done.stderr
    with tarfile.open(archive) as flat:
        entries = {"/" + entry.name.removeprefix("./").rstrip("/"): entry for entry in flat}
    archive.unlink()
    return {path: (entry.uid, entry.gid, entry.mode) for path, entry in entries.items()}


POSTINST = """
useradd --create-home --uid 4242 --shell /bin/sh keeper
useradd --system --uid 777 --user-group demon
install -d -o demon -g keeper -m 2750 /var/lib/kept
su keeper -c 'touch /var/lib/kept/by-su'
chown -R --no-dereference keeper: /srv/kept
setpriv --reuid demon --clear-groups true
"""
FILES = {
    "srv/": DebFile(None, 0, 0, 0o755),
    "srv/kept/": DebFile(None, 0, 0, 0o755),
    "srv/kept/file": DebFile(b"kept", 0, 0, 0o644),
    "srv/program": DebFile(b"#!/bin/sh\n", 33, 34, 0o6755),
    "srv/secret": DebFile(b"secret", 7, 42, 0o640),
}


def test_a_package_is_installed_whose_files_are_others(
    ordinary_user: OrdinaryUser, debian: str
) -> None:
    package = ordinary_user.home / "kept.deb"
    package.write_bytes(deb("kept", FILES, POSTINST))
    run = ordinary_user.run_cellblock
    bind = f"{package}:/kept.deb:ro"
    script = "dpkg -i /kept.deb && dpkg -V kept && dpkg -s kept && id keeper"
    done = run("run", "--name", "kept", "-v", bind, debian, "sh", "-c", script)
    try:
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert "Status: install ok installed" in done.stdout
        assert done.stdout.endswith("uid=4242(keeper) gid=4242(keeper) groups=4242(keeper)\n")
        owners = exported(ordinary_user, "kept")
    finally:
        run("rm", "-f", "kept")
    assert owners["/srv/program"] == (33, 34, 0o6755)
    assert owners["/srv/secret"] == (7, 42, 0o640)
    assert owners["/srv/kept"] == (4242, 4242, 0o755)
    assert owners["/srv/kept/file"] == (4242, 4242, 0o644)
    assert owners["/home/keeper"] == (4242, 4242, 0o755)
    assert owners["/home/keeper/.profile"][:2] == (4242, 4242)
    assert owners["/var/lib/kept"] == (777, 4242, 0o2750)
    assert owners["/var/lib/kept/by-su"][:2] == (0, 0)


INSTALL = """
set -e
apt-config dump | grep -q '^APT::Sandbox::User "root"'
apt-get update -q
apt-get install -q -y --no-install-recommends at man-db
mandb --version
"""


@pytest.mark.timeout(300)
def test_apt_installs_from_debians_mirrors(ordinary_user: OrdinaryUser, debian: str) -> None:
    capabilities.need_host("deb.debian.org", 80)
    run = ordinary_user.run_cellblock
    words = ["run", "--name", "apt", "--network", "host", "-e", "DEBIAN_FRONTEND=noninteractive"]
    done = run(*words, debian, "sh", "-c", INSTALL, timeout_s=300)
    try:
        assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
        changed = run("diff", "apt").stdout
        owners = exported(ordinary_user, "apt")
    finally:
        run("rm", "-f", "apt")
    assert "/usr/bin/mandb" in changed
    assert "99cellblock" not in changed
    assert owners["/usr/bin/at"] == (1, 1, 0o6755)
    assert owners["/var/spool/cron/atjobs"] == (1, 1, 0o1770)
    assert owners["/var/cache/man"][:2] == (6, 12)
