"""What code in a container tries in order to get out. Each test is named by the attack's number."""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import sys
from pathlib import Path

import pytest

from cellblock_engine import Engine, RunRequest, errors
from support.attempts import (
    CGROUP_FILES,
    DEVICES,
    FILE_HANDLES,
    FOREIGN_CALLS,
    KERNEL_INTERFACES,
    KERNEL_SETTINGS,
    MOUNTS,
    NESTED_NAMESPACES,
    SOCKETS,
    TERMINALS,
)
from support.inside import PRELUDE, assert_refused, attack, output_of
from support.layouts import LayoutWriter, small_tar
from support.registry import Registry

pytestmark = pytest.mark.usefixtures("root")


def test_01_nested_user_namespaces(base_engine: Engine, base_image: str) -> None:
    assert_refused(attack(base_engine, base_image, NESTED_NAMESPACES), "ENOSPC", "EPERM", "ENOSYS")


def test_02_mounts_and_namespaces(base_engine: Engine, base_image: str) -> None:
    outcome = attack(base_engine, base_image, MOUNTS)
    # chroot changes nothing for whoever is root of a container's own tree: Docker allows it too.
    outcome.pop("chroot")
    assert_refused(outcome, "EPERM", "ENOSYS", "EINVAL")
    assert outcome["mount"] == outcome["fsopen"] == outcome["open_tree"] == "EPERM"
    assert outcome["setns mnt"] == outcome["setns net"] == "EPERM"


def test_03_cgroup_files(base_engine: Engine, base_image: str) -> None:
    assert_refused(
        attack(base_engine, base_image, CGROUP_FILES), "EROFS", "EACCES", "EPERM", "ENOENT"
    )


def test_04_kernel_settings(base_engine: Engine, base_image: str) -> None:
    outcome = attack(base_engine, base_image, KERNEL_SETTINGS)
    assert outcome.pop("writable mounts") == []
    assert_refused(outcome, "EROFS", "EACCES", "EPERM", "ENOENT")


def test_05_devices(base_engine: Engine, base_image: str) -> None:
    outcome = attack(base_engine, base_image, DEVICES)
    assert_refused(outcome, "EPERM", "EACCES", "ENOENT")
    assert {v for k, v in outcome.items() if k.startswith("mknod")} <= {"EPERM", "EACCES"}
    names = base_engine.run(base_image, ["find", "/dev", "-type", "c", "-o", "-type", "b"]).check()
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    assert {Path(name).name for name in names.stdout.decode().split()} <= allowed


def test_06_open_by_handle(base_engine: Engine, base_image: str) -> None:
    assert_refused(attack(base_engine, base_image, FILE_HANDLES), "EPERM", "ENOSYS")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def interpreters() -> dict[Path, str]:
    """The files that run as the engine's own processes on the host, with their hashes."""
    real = {Path(sys.executable).resolve(), Path("/proc/self/exe").resolve()}
    real |= {
        Path(line.split()[-1])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libpython" in line or "/libc.so" in line
    }
    return {path: sha256(path) for path in real}


def test_07_overwriting_the_engines_program(
    base_engine: Engine, base_image: str, interpreters: dict[Path, str]
) -> None:
    code = """
for pid in ("1", "self", str(os.getppid())):
    for name in ("exe", "mem", "root", "cwd", "fd", "maps", "environ", "map_files"):
        if pid != "self":
            path = f"/proc/{pid}/{name}"
            attempt(path, lambda: os.listdir(path) if name in ("fd", "map_files", "root", "cwd")
                    else os.open(path, os.O_RDONLY))
attempt("1 for writing", lambda: os.open("/proc/1/exe", os.O_WRONLY))
attempt("signal to 1", lambda: (os.kill(1, 9), os.stat("/proc/1")) and os.kill(3999, 9))
"""
    outcome = attack(base_engine, base_image, code)
    outcome.pop("signal to 1")  # it may be sent, and is ignored: the container still answers
    assert_refused(outcome, "EACCES", "EPERM", "ENOENT")
    assert {path: sha256(path) for path in interpreters} == interpreters


def test_07_shebang_through_proc_self_exe(
    base_engine: Engine,
    base_layout: Path,
    registry: Registry,
    interpreters: dict[Path, str],
    tmp_path: Path,
) -> None:
    evil = b"""#!/proc/self/exe
import os
fd = os.open('/proc/self/exe', os.O_RDONLY)
os.set_inheritable(fd, True)
shell = f'for n in 1 2 3; do echo pwned > /proc/self/fd/{fd}; done; echo $? ran'
os.execv('/bin/sh', ['sh', '-c', shell])
"""
    descriptor = b"#!/proc/self/fd/%d/../../../bin/sh\necho out\n"
    files = {f"fd{number}": descriptor % number for number in range(3, 12)}
    writer = LayoutWriter(tmp_path / "evil")
    extra = writer.layer(small_tar(tmp_path / "evil.tar", {"evil": evil, **files}))
    writer.image([*writer.adopt(base_layout), extra])
    reference = registry.push(writer.directory, "evil")
    base_engine.pull(reference)
    container = base_engine.start(RunRequest(image=reference, argv=("sleep", "60")))
    # Where the interpreter finds its library in the image it runs there, as nobody in particular.
    for run in (lambda: base_engine.run(reference, ["/evil"]), lambda: container.exec(["/evil"])):
        assert output_of(run) in (b"", b"2 ran\n"), "2 is the shell's status of a refused open"
    for name in files:
        assert output_of(lambda: base_engine.run(reference, [f"/{name}"])) == b""  # noqa: B023
        assert output_of(lambda: container.exec([f"/{name}"])) == b""  # noqa: B023
    container.remove(force=True)
    assert {path: sha256(path) for path in interpreters} == interpreters


def test_08_working_directory_through_a_descriptor(base_engine: Engine, base_image: str) -> None:
    for number in range(3, 65):
        with pytest.raises(errors.StartFailed, match=f"/proc/self/fd/{number}"):
            base_engine.run(base_image, ["ls", ".."], workdir=f"/proc/self/fd/{number}")
    assert base_engine.containers() == ()


def test_08_working_directory_of_exec(base_engine: Engine, base_image: str) -> None:
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60")))
    try:
        for number in range(3, 33):
            with pytest.raises(errors.StartFailed, match=f"/proc/self/fd/{number}"):
                container.exec(["ls", ".."], workdir=f"/proc/self/fd/{number}")
    finally:
        container.remove(force=True)


def test_09_special_directories_are_symlinks_to_the_host(
    base_engine: Engine, base_layout: Path, registry: Registry, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    for number, name in enumerate(("dev", "proc", "sys", "etc")):
        writer = LayoutWriter(tmp_path / f"links{number}")
        archive = small_tar(tmp_path / f"{name}.tar", {name: str(canary)})
        writer.image([*writer.adopt(base_layout), writer.layer(archive)])
        reference = registry.push(writer.directory, f"links-{name}")
        base_engine.pull(reference)
        script = "echo x > /etc/x; echo x > /dev/x; echo x > /proc/x"
        output_of(lambda: base_engine.run(reference, ["sh", "-c", script]))  # noqa: B023
        assert list(canary.iterdir()) == [], name


def test_12_terminal_injection(base_engine: Engine, base_image: str) -> None:
    assert_refused(attack(base_engine, base_image, TERMINALS), "EPERM")


def test_13_socket_families(base_engine: Engine, base_image: str) -> None:
    refused = "EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT", "EINVAL"
    outcome = attack(base_engine, base_image, SOCKETS)
    assert_refused(outcome, *refused)
    # These exist on ordinary kernels: it is the filter that refuses them.
    assert outcome["VSOCK"] != "allowed"
    assert outcome["NETFILTER"] in ("EPERM", "EACCES", "EAFNOSUPPORT", "EINVAL")
    usable = "import socket; socket.socket(16, socket.SOCK_RAW, 0); socket.socketpair(); "
    usable += "socket.socket(socket.AF_INET6); print('usable')"
    done = base_engine.run(base_image, ["python3", "-c", usable]).check()
    assert done.stdout == b"usable\n"


def test_14_kernel_interfaces(base_engine: Engine, base_image: str) -> None:
    assert_refused(attack(base_engine, base_image, KERNEL_INTERFACES), "EPERM", "ENOSYS")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86_64 processor")
def test_15_foreign_system_calls(base_engine: Engine, base_image: str) -> None:
    outcome = attack(base_engine, base_image, FOREIGN_CALLS)
    assert outcome.pop("native") == "allowed", "the probe works"
    assert_refused(outcome, "killed", "ENOSYS")


def test_16_setuid_programs(base_engine: Engine, base_image: str) -> None:
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60")))
    try:
        make = "cp /usr/bin/python3 /srv/p && chmod 4755 /srv/p && stat -c %a /srv/p"
        assert container.exec(["sh", "-c", make]).check().stdout == b"4755\n"
        program = "import os; print(os.geteuid()); os.setuid(0)"
        done = container.exec(["/srv/p", "-c", program], user="1000")
        assert done.stdout == b"1000\n"
        assert b"PermissionError" in done.stderr
    finally:
        container.remove(force=True)


def test_18_secrets_of_the_host(
    base_engine: Engine, base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "do-not-tell-5b1e"
    for name in ("JUPYTER_TOKEN", "AWS_SECRET_ACCESS_KEY", "JPY_API_TOKEN"):
        monkeypatch.setenv(name, secret)
    connection = tmp_path / "kernel-1.json"
    connection.write_text(secret)
    code = """
import subprocess
grep = ["grep", "-rlsaF", "--exclude-dir=sys", SECRET, "/proc/1", "/proc/self/environ",
        "/etc", "/root", "/home", "/run", "/tmp", "/var", "/dev/shm", "/srv", "/opt", "/mnt"]
outcome["found"] = subprocess.run(grep, capture_output=True, text=True).stdout.splitlines()
outcome["connection file"] = os.path.exists(CONNECTION)
outcome["environment"] = [k for k in os.environ if k.startswith(("JUPYTER", "AWS", "JPY"))]
""".replace("SECRET", repr(secret)).replace("CONNECTION", repr(str(connection)))
    wanted = {"found": [], "connection file": False, "environment": []}
    for image in (base_image, "host"):
        program = f"{PRELUDE}\n{code}\nprint(json.dumps(outcome))"
        interpreter = sys.executable if image == "host" else "python3"
        done = base_engine.run(image, [interpreter, "-c", program], timeout=60)
        outcome = json.loads(done.check().stdout)
        assert outcome == wanted, image


def test_18_host_image_hides_what_only_root_reads(base_engine: Engine) -> None:
    program = """
import os, sys
seen = {path: os.path.exists(path) and os.access(path, os.R_OK)
        for path in ("/etc/shadow", "/etc/gshadow", "/root/.ssh", "/root/.bashrc", "/var/lib/dpkg",
                     "/etc/ssh/ssh_host_ed25519_key", "/run/cellblock", "/var/lib/cellblock")}
print([path for path, readable in seen.items() if readable])
# The notebook's Python may itself be below a home, and is then all that is seen of it.
pythons = tuple({sys.prefix, sys.base_prefix})
print([os.path.join(directory, file) for home in ("/root", "/home")
       for directory, _, files in os.walk(home) for file in files
       if not directory.startswith(pythons)])
"""
    done = base_engine.run("host", [sys.executable, "-c", program])
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == ["[]", "[]"]


def test_19_sockets_of_the_host(base_engine: Engine, base_image: str) -> None:
    name = "\0cellblock-attack-19"
    with socket.socket(socket.AF_UNIX) as server, socket.create_server(("127.0.0.1", 0)) as tcp:
        server.bind(name)
        server.listen()
        code = f"""
def connect(address, family):
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
attempt("abstract", lambda: connect({name!r}, socket.AF_UNIX))
attempt("loopback", lambda: connect(("127.0.0.1", {tcp.getsockname()[1]}), socket.AF_INET))
attempt("internet", lambda: connect(("192.0.2.1", 80), socket.AF_INET))
"""
        outcome = attack(base_engine, base_image, code)
    assert_refused(outcome, "ECONNREFUSED", "ENETUNREACH")
