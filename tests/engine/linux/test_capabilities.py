from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cellblock_engine.linux import capabilities as caps
from support.capabilities import need_capability

SETPCAP = 8


def in_child(function):
    """Run ``function`` in a forked child and return what it returned as JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def status():
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return {k: int(v, 16) for k, _, v in (line.partition(":") for line in lines) if k[:3] == "Cap"}


def test_names_and_numbers_agree_with_the_kernel():
    assert caps.number("CHOWN") == 0
    assert caps.number("SYS_ADMIN") == caps.number("cap_sys_admin") == 21
    assert caps.number("SETFCAP") == 31
    assert caps.name(40) == "CHECKPOINT_RESTORE"
    assert caps.name(50) == "CAP_50"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="EVERYTHING"):
        caps.mask(frozenset({"EVERYTHING"}))


def test_masks_and_names_are_inverse():
    assert caps.names(caps.mask(caps.DEFAULT)) == caps.DEFAULT
    assert caps.mask(frozenset()) == 0
    assert caps.mask(frozenset({"CHOWN", "cap_chown"})) == 1


def test_the_default_profile_grants_nothing_over_the_machine():
    dangerous = {"SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "NET_ADMIN", "NET_RAW", "MKNOD", "BPF"}
    assert not caps.DEFAULT & dangerous


def test_a_process_is_reduced_to_the_profile():
    need_capability(SETPCAP, "CAP_SETPCAP")
    profile = caps.mask(caps.DEFAULT)

    def work():
        caps.drop_bounding(profile)
        caps.set_all(profile, profile, 0)
        return status()

    held = status()["CapBnd"] & profile
    assert held == profile, "the test's own bounding set lacks a default capability"
    assert in_child(work) == {
        "CapInh": 0,
        "CapPrm": profile,
        "CapEff": profile,
        "CapBnd": profile,
        "CapAmb": 0,
    }


def test_what_was_given_up_does_not_come_back():
    def work():
        caps.set_all(0, 0, 0)
        try:
            caps.set_all(1, 1, 0)
        except OSError as error:
            return error.errno
        return 0

    assert in_child(work) == errno.EPERM


def test_ambient_capabilities_are_cleared():
    need_capability(SETPCAP, "CAP_SETPCAP")

    def work():
        from cellblock_engine.linux import syscalls

        held = status()["CapPrm"]
        syscalls.capset(held, held, 1)
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, 2, 0)  # PR_CAP_AMBIENT_RAISE, CAP_CHOWN
        raised = status()["CapAmb"]
        caps.set_all(held, held, 1)
        return [raised, status()["CapAmb"]]

    assert in_child(work) == [1, 0]


def test_the_bounding_set_needs_setpcap():
    def work():
        caps.set_all(0, 0, 0)
        try:
            caps.drop_bounding(0)
        except OSError as error:
            return error.errno
        return 0

    if status()["CapBnd"] == 0:
        pytest.skip("the bounding set is empty already")
    assert in_child(work) == errno.EPERM
