"""What a container of one id tries against the process that writes down owners for it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support import capabilities
from support.ordinary import OrdinaryUser
from support.recorded import recorded

TRIES = int(os.environ.get("CELLBLOCK_TRIES", "60"))

# A folder of the host is attached, so that there is somewhere to be led to.
CANARY = """
folder = Path("canary")
folder.mkdir(exist_ok=True)
(folder / "file").touch()
before = os.stat(folder / "file").st_ctime_ns, os.stat(folder).st_ctime_ns
"""
UNTOUCHED = """
after = os.stat(folder / "file").st_ctime_ns, os.stat(folder).st_ctime_ns
assert after == before, "touched"
assert not os.listxattr(folder / "file") and not os.listxattr(folder), "written"
"""
BIND = "(Bind(Path('canary').absolute(), '/bound', writable=True),)"

LED = """
import array
os.chdir("/srv")
os.mkdir("folder")
open("folder/file", "w").close()
held = os.open("/bound", os.O_RDONLY)
os.symlink("/bound", "link")
os.symlink("/proc/self/cwd/../bound/file", "magic")
attempt("bound", lambda: os.chown("/bound/file", 1, 1))
attempt("its folder", lambda: os.chown("/bound", 1, 1))
attempt("relative", lambda: os.chown("file", 1, 1, dir_fd=held))
attempt("held", lambda: os.fchown(held, 1, 1))
attempt("up", lambda: os.chown("../../../../../../../bound/file", 1, 1))
attempt("link", lambda: os.chown("link/file", 1, 1))
attempt("magic", lambda: os.chown("magic", 1, 1))
for place in ("root", "cwd", "exe", "ns/mnt"):
    for who in ("1", "self", "thread-self", str(os.getpid())):
        attempt(f"{who}/{place}", lambda: os.chown(f"/proc/{who}/{place}", 1, 1))
attempt("init's", lambda: os.chown("/proc/1/root/srv/folder", 1, 1))
attempt("through itself", lambda: os.chown(f"/proc/{os.getpid()}/root/bound/file", 1, 1))
outcome["attributes"] = os.listxattr("/bound/file") + os.listxattr("/bound")

swap = os.fork()
if swap == 0:
    while True:
        libc.renameat2(-100, b"folder", -100, b"link", 2)  # RENAME_EXCHANGE
for number in range(TRIES * 50):
    os.chown("folder/file", 1 + number % 1000, 1)
os.kill(swap, 9)
os.waitpid(swap, 0)
"""


@pytest.mark.attack(11)
def test_it_is_led_to_no_file_of_the_host(ordinary_user: OrdinaryUser) -> None:
    program = LED.replace("TRIES", str(TRIES))
    seen = recorded(ordinary_user, program, before=CANARY, after=UNTOUCHED, binds=BIND)
    assert seen.outcome.pop("attributes") == []
    assert [seen.outcome.pop(name) for name in ("bound", "its folder", "relative", "held")] == [
        "allowed"
    ] * 4
    assert seen.outcome.pop("up") == seen.outcome.pop("link") == "allowed"
    assert set(seen.outcome.values()) <= {"ENOENT", "ELOOP", "EACCES"}
    assert set(seen.owners) <= {"/srv/folder/file", "/srv/link/file"}
    assert seen.owners, "the file of the container itself was changed now and then"


OVERLAY = """
set -e
cd "$0"
mkdir -p low up work merged
touch low/file low/other
chown -R "$1" low up
mount -t overlay -o lowerdir=low,upperdir=up,workdir=work none merged
echo
read end
"""


@contextmanager
def overlay_of_the_host(user: OrdinaryUser) -> Iterator[OrdinaryUser]:
    """Give the user as it is where ``overlay/merged`` in its home is one, as in docker is ``/``."""
    capabilities.need_capability(capabilities.CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
    for name in ("nsenter", "setpriv"):
        capabilities.need_program(name)
    folder = user.home / "overlay"
    folder.mkdir()
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", OVERLAY]
    command += [str(folder), str(user.uid)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as made:
        assert made.stdout is not None
        assert made.stdout.readline() == "\n"
        mounts = os.open(f"/proc/{made.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield replace(user, mounts=mounts)
        finally:
            os.close(mounts)
            made.communicate("\n")


@pytest.mark.attack(11)
def test_an_overlay_of_the_host_is_none_of_the_containers(ordinary_user: OrdinaryUser) -> None:
    program = """
for name in ("file", "other", "."):
    attempt(name, lambda: os.chown(f"/bound/{name}", 7, 7))
attempt("own", lambda: os.chown("/srv", 7, 7))
"""
    before = """
os.environ["CELLBLOCK_HOME"] = str(Path("of-overlay").absolute())
"""
    after = """
merged = Path("overlay/merged")
assert not [name for each in (merged, *merged.iterdir()) for name in os.listxattr(each)], "written"
assert not list(Path("overlay/up").iterdir()), "copied up"
"""
    binds = "(Bind(Path('overlay/merged').absolute(), '/bound', writable=True),)"
    with overlay_of_the_host(ordinary_user) as user:
        seen = recorded(user, program, before=before, after=after, binds=binds)
    assert set(seen.outcome.values()) == {"allowed"}
    assert seen.owners == {"/srv": "7:7"}


HOSTILE = """
import mmap, stat
os.chdir("/srv")
number = 260 if X86 else 54
def at(place, path, flags=0, uid=1, gid=1):
    return syscall(number, number, place, path, uid, gid, flags)
SIZE = mmap.PAGESIZE
page = mmap.mmap(-1, 2 * SIZE)
start = ctypes.addressof(ctypes.c_char.from_buffer(page))
page.write(b"x" * 2 * SIZE)
libc.munmap(ctypes.c_void_p(start + SIZE), SIZE)
raw = lambda address: at(-100, ctypes.c_void_p(address))
attempt("to the end of memory", lambda: raw(start + SIZE - 100))
attempt("none", lambda: raw(start + SIZE))
for name, address in (("last", 2**64 - 1), ("half", 2**63), ("kernel", 0xFFFF800000000000),
                      ("odd", 0x800000000000), ("first", 1)):
    attempt(name, lambda: raw(address))
attempt("huge", lambda: at(-100, b"y/" * (1 << 20)))
attempt("as long as none is", lambda: at(-100, b"z" * 4096))
attempt("as long as it can be", lambda: at(-100, b"/" * 4095))
attempt("bytes", lambda: at(-100, bytes(range(1, 256))))

reader, writer = os.pipe()
one, other = socket.socketpair()
open("file", "w").close()
for name, place in (("pipe", reader), ("socket", one.fileno()), ("file", os.open("file", 0)),
                    ("memory", os.memfd_create("m")), ("none", 2**31 - 1), ("negative", -2)):
    attempt(f"below a {name}", lambda: at(place, b"file"))
    attempt(f"the {name}", lambda: at(place, b"", 0x1000))
    attempt(f"fchown of {name}", lambda: os.fchown(place, 1, 1))
os.mkfifo("fifo")
attempt("fifo", lambda: os.chown("fifo", 1, 1))
listener = socket.socket(socket.AF_UNIX)
listener.bind("socket")
attempt("bound socket", lambda: os.chown("socket", 1, 1))
attempt("terminal", lambda: os.chown("/dev/ptmx", 1, 1))
os.mkdir("gone")
os.chdir("gone")
os.rmdir("/srv/gone")
attempt("in what is gone", lambda: os.chown("x", 1, 1))
attempt("what is gone", lambda: os.chown(".", 1, 1))
os.chdir("/srv")
os.chown("file", 5, 5)
outcome["goes on"] = os.getxattr("file", "user.cellblock.owner").decode()
"""


@pytest.mark.attack(34)
def test_hostile_words_are_answered_and_it_goes_on(ordinary_user: OrdinaryUser) -> None:
    seen = recorded(ordinary_user, HOSTILE)
    said = seen.outcome
    assert said.pop("goes on") == "5:5"
    memory = ("to the end of memory", "none", "last", "half", "kernel", "odd", "first")
    assert {said.pop(name) for name in memory} == {"EFAULT"}
    assert {said.pop(name) for name in ("huge", "as long as none is")} == {"ENAMETOOLONG"}
    assert said.pop("as long as it can be") == "allowed"  # it is the root
    assert said.pop("bytes") == "ENOENT"
    for name in ("pipe", "socket", "file", "memory"):
        assert said.pop(f"below a {name}") == "ENOTDIR"
        assert said.pop(f"the {name}") == said.pop(f"fchown of {name}") == "allowed"
    for name in ("none", "negative"):
        whole = {said.pop(f"{how} {name}") for how in ("below a", "the", "fchown of")}
        assert whole == {"EBADF"}
    assert (said.pop("in what is gone"), said.pop("what is gone")) == ("ENOENT", "allowed")
    assert said == {"fifo": "allowed", "bound socket": "allowed", "terminal": "allowed"}
    assert set(seen.owners) == {"/srv/file", "/"}


KILLED = """
import random, signal, threading, time
os.chdir("/srv")
for name in ("one", "two", "last"):
    open(name, "w").close()
def forever(name):
    while True:
        os.chown(name, 1, 1)
for number in range(TRIES):
    child = os.fork()
    if child == 0:
        threading.Thread(target=forever, args=("one",), daemon=True).start()
        forever("two")
    time.sleep(random.random() / 200)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
os.chown("last", 5, 6)
outcome["interrupted"] = 0
def on_alarm(*_):
    outcome["interrupted"] += 1
signal.signal(signal.SIGALRM, on_alarm)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for number in range(500):
    attempt("during signals", lambda: os.chown("one", number, 1))
    if outcome["during signals"] != "allowed":
        break
signal.setitimer(signal.ITIMER_REAL, 0)
outcome["interrupted"] = outcome["interrupted"] > 0
"""


@pytest.mark.attack(70)
def test_who_is_killed_while_it_waits_holds_up_nobody(ordinary_user: OrdinaryUser) -> None:
    seen = recorded(ordinary_user, KILLED.replace("TRIES", str(TRIES)))
    assert seen.outcome == {"interrupted": True, "during signals": "allowed"}
    assert seen.owners["/srv/last"] == "5:6"


def test_17_it_is_out_of_sight_and_can_be_no_second_one(ordinary_user: OrdinaryUser) -> None:
    program = """
import struct
os.chown("/srv", 1, 1)
seen = [open(f"/proc/{pid}/cmdline").read() for pid in os.listdir("/proc") if pid.isdigit()]
outcome["seen"] = [line for line in seen if line.startswith("cellblock")]
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
fprog = struct.pack("HxxxxxxP", 1, ctypes.addressof(allow))
attempt("listener", lambda: syscall(317, 277, 1, 8, fprog))
"""
    assert recorded(ordinary_user, program).outcome == {"seen": [], "listener": "EBUSY"}


def test_without_it_changes_of_owners_fail_and_nothing_else(ordinary_user: OrdinaryUser) -> None:
    run = ordinary_user.run_cellblock
    started = run("run", "-d", "host", "sleep", "60")
    container = started.stdout.strip()
    try:
        assert run("exec", container, "chown", "1", "/srv").returncode == 0
        recorders = processes(f"cellblock-recorder {container[:12]}")
        assert len(recorders) == 1
        os.kill(recorders[0], signal.SIGKILL)
        for _ in range(2):
            script = "touch /srv/x && ! chown 2 /srv/x && id -u"
            done = run("exec", container, "sh", "-c", script)
            assert (done.returncode, done.stdout) == (0, "0\n")
            assert done.stderr.endswith("Function not implemented\n")
    finally:
        assert run("rm", "-f", container).returncode == 0
    assert processes(f"cellblock-recorder {container[:12]}") == []


@pytest.mark.attack(70)
def test_it_ends_with_the_monitor(ordinary_user: OrdinaryUser) -> None:
    run = ordinary_user.run_cellblock
    container = run("run", "-d", "host", "sleep", "60").stdout.strip()
    assert run("exec", container, "chown", "1", "/srv").returncode == 0
    names = [f"cellblock-{who} {container[:12]}" for who in ("monitor", "recorder")]
    (monitor,), (_,) = map(processes, names)
    os.kill(monitor, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes(names[1]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert run("rm", "-f", container).returncode == 0


FLOOD = """
import time
os.chdir("/srv")
end = time.monotonic() + 60
children = []
for number in range(8):
    child = os.fork()
    if child == 0:
        open(str(number), "w").close()
        while time.monotonic() < end:
            os.chown(str(number), 1, 1)
        os._exit(0)
    children.append(child)
outcome["ended"] = [os.waitpid(child, 0)[1] for child in children]
"""


@pytest.mark.attack(28)
def test_a_flood_leaves_the_monitor_and_others_alone(ordinary_user: OrdinaryUser) -> None:
    run = ordinary_user.run_cellblock
    program = f"import os\noutcome = {{}}\n{FLOOD}"
    python = str(ordinary_user.python)
    container = run("run", "-d", "host", python, "-c", program).stdout.strip()
    try:
        for _ in range(3):
            before = time.monotonic()
            assert run("exec", container, "true").returncode == 0
            assert time.monotonic() - before < 5
    finally:
        assert run("rm", "-f", container).returncode == 0


def processes(command_line: str) -> list[int]:
    """Return who is called so."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if said.rstrip(b"\0").decode(errors="replace") == command_line:
            found.append(int(folder.name))
    return found
