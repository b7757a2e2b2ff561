"""The filter is interpreted for every number, and installed in forked children beside the other."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import stat
import struct
from collections.abc import Callable
from typing import Any, Self

import pytest

from cellblock_engine.linux import fake_ids, notifications, seccomp, syscalls
from cellblock_engine.linux.syscall_numbers import numbers
from support.bpf import interpret

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, DONE, ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
IDS = {
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid",
    "setfsgid",
}  # fmt: skip
OWNERS = {"chown", "lchown", "fchown", "fchownat"}
MODE = {"mknod": 1, "mknodat": 2}


@pytest.mark.parametrize("machine", ARCH)
def test_every_number_is_decided_as_the_lists_say(machine: str) -> None:
    program = fake_ids.compile_filter(machine)
    by_number = {number: name for name, number in numbers(machine).items()}
    for number in range(600):
        name = by_number.get(number)
        wanted = DONE if name in IDS else ASK if name in OWNERS else ALLOW
        assert interpret(program, arch=ARCH[machine], number=number).value == wanted, name


@pytest.mark.parametrize("machine", ARCH)
def test_only_devices_are_not_made(machine: str) -> None:
    program = fake_ids.compile_filter(machine)
    for name, place in MODE.items():
        number = numbers(machine).get(name)
        if number is None:
            continue
        for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR, 0):
            words = (0,) * place + (kind | 0o7777,)
            assert (
                interpret(program, arch=ARCH[machine], number=number, arguments=words)[0] == ALLOW
            )
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            for high in (0, 1 << 32, 1 << 16):  # of which the kernel takes no notice
                words = (0,) * place + (kind | 0o644 | high,)
                answer = interpret(program, arch=ARCH[machine], number=number, arguments=words)
                assert answer.value == DONE


@pytest.mark.parametrize("machine", ARCH)
def test_other_architectures_are_the_other_filters(machine: str) -> None:
    for arch in (0x40000003, 0x40000028, *(a for a in ARCH.values() if a != ARCH[machine])):
        for number in (0, 182, 207, 212, *(numbers(machine)[name] for name in IDS)):
            answer = interpret(fake_ids.compile_filter(machine), arch=arch, number=number)
            assert answer.value == ALLOW


class Filtered:
    """A child under both filters that runs a function; its listener, and its result as JSON."""

    def __init__(self, function: Callable[[], Any]) -> None:
        ours, theirs = socket.socketpair()
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
                listener = notifications.install(fake_ids.host_filter())
                seccomp.install(seccomp.host_filter())
                socket.send_fds(theirs, [b"!"], [listener])
                os.close(listener)
                os.write(writer, json.dumps(function()).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        theirs.close()
        with ours:
            _, (self.listener,), _, _ = socket.recv_fds(ours, 1, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.listener)
        os.close(self._reader)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def result(self) -> Any:
        """Return what the function returned."""
        return json.loads(os.read(self._reader, 4096))

    def notification(self) -> notifications.Notification:
        """Return the next call that waits."""
        assert select.select([self.listener], [], [], 10)[0]
        notification = notifications.receive(self.listener)
        assert notification is not None
        return notification


def change_owner() -> int:
    try:
        os.chown(b"/nowhere", 33, 44)
    except OSError as error:
        return error.errno or -1
    return 0


def test_ids_are_changed_in_word_only() -> None:
    def change() -> list[int]:
        os.setgroups([1, 2])
        os.setresgid(33, 33, 33)
        os.setresuid(33, 33, 33)
        return [os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()]

    with Filtered(change) as child:
        assert child.result() == [os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()]


def test_who_changes_an_owner_waits_for_the_answer() -> None:
    for code in (0, errno.EROFS):
        with Filtered(change_owner) as child:
            asked = child.notification()
            assert asked.pid == child.pid
            assert {33, 44} < set(asked.arguments)
            assert notifications.is_waiting(child.listener, asked)
            notifications.answer(child.listener, asked, code)
            assert child.result() == code
            assert not notifications.is_waiting(child.listener, asked)


def test_without_a_listener_nobody_changes_an_owner() -> None:
    with Filtered(change_owner) as child:
        child.notification()
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, child.listener)  # closes it
        os.close(nowhere)
        assert child.result() == errno.ENOSYS


def test_who_is_gone_is_not_answered() -> None:
    with Filtered(change_owner) as child:
        asked = child.notification()
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not notifications.is_waiting(child.listener, asked)
        notifications.answer(child.listener, asked, 0)
    with Filtered(change_owner) as child:
        assert select.select([child.listener], [], [], 10)[0]
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert notifications.receive(child.listener) is None


def test_the_other_filter_goes_before() -> None:
    """A call that it refuses is refused, and a second listener is."""

    def refused() -> list[int]:
        outcome = []
        for attempt in (lambda: syscalls.setns(0, 0), lambda: notifications.install(ALLOW_ALL)):
            try:
                attempt()
            except OSError as error:
                outcome.append(error.errno)
        return outcome

    with Filtered(refused) as child:
        assert child.result() == [errno.EPERM, errno.EBUSY]


ALLOW_ALL = struct.pack("HBBI", 6, 0, 0, ALLOW)
