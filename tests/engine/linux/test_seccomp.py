"""The filter is installed in forked children, which then make the real system calls."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import re
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from cellblock_engine.linux import seccomp, syscalls
from cellblock_engine.linux.syscall_numbers import numbers
from support.bpf import interpret

MACHINE = os.uname().machine
NUMBERS = numbers(MACHINE)
X86_64 = pytest.mark.skipif(MACHINE != "x86_64", reason="the x86_64 ABI is not there")
BIT = 1 << 32
MAX_INSTRUCTIONS = 4096


def in_child(function, *, filtered=True):
    """Run ``function`` in a forked child; return (wait status, what it returned as JSON)."""
    reader, writer = os.pipe()
    program = seccomp.host_filter()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            if filtered:
                syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
                seccomp.install(program)
            os.write(writer, json.dumps(function()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(pid, 0)
    return status, json.loads(answer) if answer else None


def raw(number, *arguments):
    """Make a system call by number; return its result, or minus the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(a) for a in arguments))
    return -ctypes.get_errno() if result < 0 else result


def call(name, *arguments):
    """Return what the named call gives in a filtered child."""
    status, answer = in_child(lambda: raw(NUMBERS[name], *arguments))
    assert status == 0
    return answer


@pytest.mark.parametrize(
    "name",
    [
        "add_key",
        "bpf",
        "chroot",
        "fsopen",
        "init_module",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "kexec_load",
        "keyctl",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "pidfd_getfd",
        "pivot_root",
        "reboot",
        "request_key",
        "setns",
        "sethostname",
        "swapon",
        "syslog",
        "umount2",
        "userfaultfd",
    ],
)
@pytest.mark.attack(2, 14)
def test_known_calls_off_the_list_get_eperm(name):
    assert call(name) == -errno.EPERM


@pytest.mark.parametrize("number", [max(NUMBERS.values()) + 1, 1023, 400, 0xFFFFFFF, 0x3FFFFFFF])
def test_numbers_from_the_future_get_enosys(number):
    status, answer = in_child(lambda: raw(number))
    assert (status, answer) == (0, -errno.ENOSYS)


def test_clone3_gets_enosys_and_threads_and_forks_still_work():
    def work():
        import subprocess
        import threading

        seen = []
        thread = threading.Thread(target=seen.append, args=(1,))
        thread.start()
        thread.join()
        return seen, subprocess.run(
            ["/bin/echo", "hi"], check=True, capture_output=True, text=True
        ).stdout

    assert in_child(work) == (0, [[1], "hi\n"])
    assert call("clone3", 0, 88) == -errno.ENOSYS


@pytest.mark.parametrize(
    "flag",
    [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000],
)
@pytest.mark.attack(1, 2)
def test_no_namespace_can_be_made(flag):
    assert call("unshare", flag) == -errno.EPERM
    assert call("unshare", flag | 0x400) == -errno.EPERM
    assert call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0) == -errno.EPERM
    assert call("clone", flag | signal.SIGCHLD | BIT, 0, 0, 0, 0) == -errno.EPERM


def test_time_namespaces_are_refused_and_harmless_unshares_are_not():
    assert call("unshare", 0x80) == -errno.EPERM
    assert call("unshare", 0x400) == 0  # CLONE_FILES


def test_the_socket_families_of_the_list_open():
    def work():
        return [
            socket.socket(family, kind, protocol).fileno() > 0
            for family, kind, protocol in (
                (socket.AF_UNIX, socket.SOCK_STREAM, 0),
                (socket.AF_INET, socket.SOCK_STREAM, 0),
                (socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0),
                (socket.AF_INET6, socket.SOCK_DGRAM, 0),
                (socket.AF_NETLINK, socket.SOCK_RAW, 0),
            )
        ] + [all(s.fileno() > 0 for s in socket.socketpair())]

    assert in_child(work) == (0, [True] * 6)


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (15, 3, 2),  # AF_KEY
        (16, 3, 6),  # NETLINK_XFRM
        (16, 3, 9),  # NETLINK_AUDIT
        (16, 3, 12),  # NETLINK_NETFILTER
        (16, 3, 16),  # NETLINK_GENERIC
        (17, 3, 0x300),  # AF_PACKET
        (17 + BIT, 3, 0x300),
        (2, 10, 0x300),  # AF_INET with SOCK_PACKET: the kernel reads it as AF_PACKET
        (2 + BIT, 10 | socket.SOCK_CLOEXEC, 0x300),
        (38, 5, 0),  # AF_ALG
        (38 + BIT, 5, 0),
        (40, 1, 0),  # AF_VSOCK
        (44, 3, 0),  # AF_XDP
        (0, 1, 0),
        (0xFFFFFFFF, 1, 0),
    ],
)
@pytest.mark.attack(13)
def test_every_other_socket_is_refused(family, kind, protocol):
    assert call("socket", family, kind, protocol) == -errno.EAFNOSUPPORT


@pytest.mark.attack(13)
def test_the_high_half_of_a_family_or_protocol_changes_nothing():
    assert call("socket", 16 + BIT, 3, 6 + BIT) == -errno.EAFNOSUPPORT
    assert call("socket", 16 + BIT, 3, 0 + BIT) > 0


def test_socketpair_is_for_unix_only():
    assert call("socketpair", 30, 1, 0, 0) == -errno.EAFNOSUPPORT  # AF_TIPC


@pytest.mark.parametrize("request_number", [0x5412, 0x541C])
@pytest.mark.parametrize("high", [0, BIT, 0xDEADBEEF << 32])
@pytest.mark.attack(12)
def test_terminal_injection_is_refused_whatever_the_high_bits_say(request_number, high):
    byte = ctypes.create_string_buffer(b"x")
    assert call("ioctl", 0, request_number | high, ctypes.addressof(byte)) == -errno.EPERM


def test_other_ioctls_reach_the_kernel():
    def work():
        reader, _ = os.pipe()
        count = ctypes.c_int(-1)
        return [raw(NUMBERS["ioctl"], reader, 0x541B, ctypes.addressof(count)), count.value]

    assert in_child(work) == (0, [0, 0])  # FIONREAD


def test_personality_is_limited():
    assert call("personality", 0xFFFFFFFF) >= 0
    assert call("personality", 0x8) >= 0
    assert call("personality", 0x20008) >= 0
    assert call("personality", 0x40000) == -errno.EPERM  # ADDR_NO_RANDOMIZE
    assert call("personality", 0x40000 + BIT) == -errno.EPERM


def test_ptrace_is_allowed():
    assert call("ptrace", 0, 0, 0, 0) == 0  # PTRACE_TRACEME


def test_a_python_program_runs_under_it():
    source = (
        "import asyncio, json, os, signal, sqlite3, ssl, tempfile, time\n"
        "async def main():\n"
        "    p = await asyncio.create_subprocess_exec('/bin/true'); return await p.wait()\n"
        "d = tempfile.mkdtemp(); open(d + '/x', 'w').write('x'); os.chmod(d + '/x', 0o600)\n"
        "sqlite3.connect(d + '/db').execute('create table t(a)'); import shutil; shutil.rmtree(d)\n"
        "time.sleep(0.001); print(asyncio.run(main()), os.sched_getaffinity(0) != set())\n"
    )

    def work():
        import subprocess

        done = subprocess.run(
            [sys.executable, "-c", source], check=False, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    assert in_child(work) == (0, "0 True\n")


@X86_64
@pytest.mark.attack(15)
def test_calls_through_int_0x80_end_the_process():
    def work(number=20):  # getpid of i386
        # mov eax, number; int 0x80; ret
        code = b"\xb8" + number.to_bytes(4, "little") + b"\xcd\x80\xc3"
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        return ctypes.CFUNCTYPE(ctypes.c_int)(
            ctypes.addressof(ctypes.c_char.from_buffer(page))
        )() in (os.getpid(), -errno.ENOSYS)

    status, answer = in_child(work, filtered=False)
    if os.WIFSIGNALED(status):
        pytest.skip("this kernel has no 32-bit entry (CONFIG_IA32_EMULATION)")
    if not answer and in_child(lambda: work(39), filtered=False) == (0, True):  # x86-64's getpid
        pytest.skip(
            "needs a kernel on which int 0x80 is i386's (User Mode Linux takes it for its own)"
        )
    assert answer is True
    status, answer = in_child(work)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGSYS
    assert answer is None


@X86_64
@pytest.mark.parametrize("number", [0, 39, 512, 520, 0x3FFFFFFF])
@pytest.mark.attack(15)
def test_x32_numbers_end_the_process(number):
    status, answer = in_child(lambda: raw(0x40000000 + number, 0, 0, 0))
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGSYS
    assert answer is None


@X86_64
def test_a_call_that_a_tracer_skipped_is_no_foreign_call():
    status, answer = in_child(lambda: raw(-1))
    assert (status, answer) == (0, -errno.ENOSYS)


def test_filters_stack_and_cannot_be_taken_off():
    def work():
        seccomp.install(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))  # allow all
        return raw(NUMBERS["bpf"])

    assert in_child(work) == (0, -errno.EPERM)


def test_it_needs_no_new_privs_from_an_ordinary_user():
    def work():
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            seccomp.install(seccomp.host_filter())
        except OSError as error:
            return error.errno
        return 0

    assert in_child(work, filtered=False) == (0, errno.EACCES)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_program_is_short_and_its_jumps_stay_inside(machine):
    program = seccomp.compile_filter(machine)
    instructions = list(struct.iter_unpack("HBBI", program))
    assert len(instructions) < MAX_INSTRUCTIONS
    for index, (code, jump_true, jump_false, k) in enumerate(instructions):
        targets = (
            [index + 1 + k] if code == 0x05 else [index + 1 + jump_true, index + 1 + jump_false]
        )
        if code != 0x06:
            assert all(index < target < len(instructions) for target in targets)
    assert seccomp.compile_filter(machine) is program


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number_is_decided_as_the_list_says(machine):
    """Interpret the program for each number: no neighbour may be decided by its neighbour."""
    program = seccomp.compile_filter(machine)
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    by_number = {number: name for name, number in numbers(machine).items()}
    steps = 0
    for number in range(600):
        answer, took = interpret(program, arch=arch, number=number)
        steps = max(steps, took)
        name = by_number.get(number)
        conditional = {"clone", "clone3", "ioctl", "personality", "socket", "socketpair", "unshare"}
        if name in conditional:
            continue
        if name is None:
            assert answer == 0x50000 | errno.ENOSYS
        elif name in seccomp._ALLOWED.split():
            assert answer == 0x7FFF0000, name
        else:
            assert answer == 0x50000 | errno.EPERM, name
    assert steps <= 25
    other = 0xC00000B7 if machine == "x86_64" else 0x40000028
    assert interpret(program, arch=other, number=0).value == 0x80000000


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_narrow_filter_allows_what_is_named_and_nothing_else(machine):
    program = seccomp.compile_narrow(machine, {"close", "openat2"})
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    allowed = {
        name
        for name, number in numbers(machine).items()
        if interpret(program, arch=arch, number=number).value == 0x7FFF0000
    }
    assert allowed == {"close", "openat2"}
    assert interpret(program, arch=0, number=3).value == 0x80000000


def test_every_name_of_the_list_exists_somewhere():
    known = set(numbers("x86_64")) | set(numbers("aarch64"))
    assert set(seccomp._ALLOWED.split()) - known == set()


def test_other_machines_are_refused_by_name():
    with pytest.raises(ValueError, match="no system call table for s390x"):
        seccomp.compile_filter("s390x")


def test_the_numbers_are_those_of_the_kernel_headers():
    candidates = [
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm/unistd_64.h"),
    ]
    header = next((path for path in candidates if path.exists()), None)
    if header is None:
        pytest.skip("the kernel's headers (linux-libc-dev) are not installed")
    found = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    table = numbers("x86_64")
    assert found
    assert {name: table.get(name) for name in found if int(found[name]) <= 469} == {
        name: int(number) for name, number in found.items() if int(number) <= 469
    }


def test_the_generic_numbers_are_those_of_the_kernel_headers():
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip("the kernel's headers (linux-libc-dev) are not installed")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header.read_text()))
    table = numbers("aarch64")
    # The plain names are 64-bit calls there; those of 32-bit machines end in 64 or time64.
    for name, number in table.items():
        if number <= 450 and name in found and name not in {"fstat", "newfstatat"}:
            assert int(found[name]) == number, name
    assert sum(name in found for name in table) > 280
