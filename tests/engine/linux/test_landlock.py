"""Real confinement, in forked children that make a directory their root first.

What may be executed is told from what may not by the answer to a file in no known format: ENOEXEC
says that the kernel got as far as reading it.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cellblock_engine.linux import landlock, seccomp, syscalls
from support import capabilities

NEEDS_LANDLOCK = pytest.mark.skipif(
    not landlock.available(), reason="needs Landlock (ABI 2, Linux 5.19)"
)
NO_FORMAT = b"\x00 no program"
MS_BIND = 0x1000


def in_child(function, root=None):
    """Run ``function`` in a forked child whose root is ``root``; return its answer."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            if root is not None:
                change_root(root)
            os.write(writer, json.dumps(function()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(answer)


def change_root(root):
    """Take a directory as root, with a file system of its own on /mnt, and the host's /proc."""
    maps = (("uid_map", f"0 {os.geteuid()} 1"), ("gid_map", f"0 {os.getegid()} 1"))
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), *maps):
        Path("/proc/self", name).write_text(text)
    syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    place = os.fsencode(root)
    syscalls.mount(b"/proc", place + b"/proc", None, syscalls.MS_REC | MS_BIND, None)
    syscalls.mount(b"tmpfs", place + b"/mnt", b"tmpfs", 0, None)
    os.chroot(root)
    os.chdir("/")


def confine():
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    landlock.confine_execution()


def answer_to_execution(program):
    """Return the errno by name; no program here can be executed, for one reason or another."""
    try:
        os.execve(program, ["program"], {})
    except OSError as error:
        return errno.errorcode[error.errno]


def place_program(path, body=NO_FORMAT):
    path.write_bytes(body)
    path.chmod(0o755)
    return path


@pytest.fixture
def root(tmp_path):
    capabilities.need_user_namespaces()
    for name in ("", "mnt", "proc", "one", "two"):
        (tmp_path / "root" / name).mkdir()
    return tmp_path / "root"


@pytest.fixture
def outside(tmp_path):
    """A descriptor of a program that is not below the root, as every process has of its own."""
    fd = os.open(place_program(tmp_path / "outside"), os.O_PATH)
    yield fd
    os.close(fd)


@NEEDS_LANDLOCK
@pytest.mark.attack(7)
def test_nothing_outside_the_root_is_executed(root, outside):
    script = place_program(root / "script", b"#!/proc/self/fd/%d\n" % outside)
    programs = (outside, f"/proc/self/fd/{outside}", f"/{script.name}")

    def work():
        before = [answer_to_execution(program) for program in programs]
        confine()
        return before, [answer_to_execution(program) for program in programs]

    assert in_child(work, root) == [["ENOEXEC"] * 3, ["EACCES"] * 3]


@NEEDS_LANDLOCK
def test_no_file_is_changed_and_all_are_read(tmp_path):
    there, moved = place_program(tmp_path / "there"), tmp_path / "moved"
    attempts = {
        "execute": lambda: os.execve(there, ["there"], {}),
        "write": lambda: os.close(os.open(there, os.O_WRONLY)),
        "make": lambda: os.mkdir(tmp_path / "new"),
        "move": lambda: os.rename(there, moved),
        "remove": lambda: os.unlink(moved if moved.exists() else there),
        "read": lambda: os.close(os.open(tmp_path, os.O_RDONLY)),
    }

    def outcome(name):
        try:
            attempts[name]()
        except OSError as error:
            return errno.errorcode[error.errno]
        return "done"

    def work():
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        landlock.refuse_changes()
        return {name: outcome(name) for name in attempts}

    assert in_child(work) == {**dict.fromkeys(attempts, "EACCES"), "read": "done"}
    allowed = {name: outcome(name) for name in attempts}
    assert allowed == {**dict.fromkeys(attempts, "done"), "execute": "ENOEXEC"}


@NEEDS_LANDLOCK
@pytest.mark.attack(7)
def test_its_own_program_is_outside(root):
    def work():
        confine()
        return answer_to_execution("/proc/self/exe")

    assert in_child(work, root) == "EACCES"


@NEEDS_LANDLOCK
def test_what_is_inside_is_executed_wherever_it_is(root):
    place_program(root / "program")

    def work():
        confine()
        place_program(Path("/mnt/program"))
        memfd = os.memfd_create("program")
        os.write(memfd, NO_FORMAT)
        return [answer_to_execution(one) for one in ("/program", "/mnt/program", memfd)]

    assert in_child(work, root) == ["ENOEXEC"] * 3


@NEEDS_LANDLOCK
def test_files_are_still_renamed_and_linked_across_directories(root):
    def work():
        confine()
        for tree in ("", "/mnt"):
            os.makedirs(f"{tree}/one/directory", exist_ok=True)
            os.makedirs(f"{tree}/two", exist_ok=True)
            Path(f"{tree}/one/file").write_text("text")
            os.link(f"{tree}/one/file", f"{tree}/two/link")
            os.rename(f"{tree}/one/file", f"{tree}/two/file")
            os.rename(f"{tree}/one/directory", f"{tree}/two/directory")
        return sorted(os.listdir("/two")), sorted(os.listdir("/mnt/two"))

    assert in_child(work, root) == [["directory", "file", "link"]] * 2


@NEEDS_LANDLOCK
def test_programs_may_confine_themselves_further(root):
    def work():
        confine()
        seccomp.install(seccomp.host_filter())
        landlock.confine_execution()
        return landlock.available()

    assert in_child(work, root) is True


@NEEDS_LANDLOCK
def test_it_leaves_no_descriptor_behind(root):
    def work():
        before = os.listdir("/proc/self/fd")
        confine()
        return before == os.listdir("/proc/self/fd")

    assert in_child(work, root) is True


@NEEDS_LANDLOCK
def test_it_needs_no_new_privs_from_an_ordinary_user():
    def work():
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            landlock.confine_execution()
        except OSError as error:
            return errno.errorcode[error.errno]

    assert in_child(work) == "EPERM"


@pytest.mark.parametrize(("abi", "enough"), [(1, False), (2, True), (9, True)])
def test_a_kernel_that_forbids_every_rename_is_not_enough(monkeypatch, abi, enough):
    monkeypatch.setattr(syscalls, "landlock_abi", lambda: abi)
    assert landlock.available() is enough


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_a_kernel_without_it(monkeypatch, code):
    def refuse():
        raise OSError(code, os.strerror(code), "landlock")

    monkeypatch.setattr(syscalls, "landlock_abi", refuse)
    assert landlock.available() is False
