"""Capabilities, ulimits and security options: what is followed, refused, in force."""

from __future__ import annotations

import pytest

from cellblock_engine import (
    InvalidInput,
    LimitNotEnforceable,
    RunRequest,
    Ulimit,
    check_security_option,
    parse_ulimit,
)
from cellblock_engine.linux.capabilities import DEFAULT, mask
from cellblock_engine.privileges import held_capabilities

SHOW = ("sh", "-c", "grep -E '^Cap(Eff|Bnd)' /proc/self/status; ulimit -Sn; ulimit -Hn")


def test_capabilities_as_docker_combines_them():
    assert held_capabilities((), ()) == tuple(sorted(DEFAULT))
    assert held_capabilities(("cap_net_raw",), ("ALL",)) == ("NET_RAW",)
    assert held_capabilities((), ("all",)) == ()
    assert set(held_capabilities(("MKNOD",), ("CHOWN",))) == DEFAULT - {"CHOWN"} | {"MKNOD"}


@pytest.mark.parametrize("name", ["SYS_ADMIN", "sys_ptrace", "CAP_NET_ADMIN", "BPF", "ALL", "X"])
def test_capabilities_that_would_go_around_the_walls_are_refused(name):
    with pytest.raises(InvalidInput):
        RunRequest(cap_add=(name,))


@pytest.mark.parametrize(
    "option", ["seccomp=unconfined", "seccomp:x.json", "no-new-privileges=false", "label=disable"]
)
def test_security_options_that_would_take_something_off_are_refused(option):
    with pytest.raises(InvalidInput):
        check_security_option(option)


def test_no_new_privileges_is_accepted():
    assert check_security_option("no-new-privileges:true") == "no-new-privileges"
    assert check_security_option("no-new-privileges") == "no-new-privileges"


def test_ulimits_as_docker_writes_them():
    assert parse_ulimit("nofile=10:20") == Ulimit("nofile", 10, 20)
    assert parse_ulimit("nproc=10") == Ulimit("nproc", 10, 10)
    assert parse_ulimit("memlock=unlimited") == Ulimit("memlock", -1, -1)


@pytest.mark.parametrize(
    "text",
    ["nofile", "nofile=", "nofile=a", "nofile=2:1", "nofile=-1:5", "files=1", "core=1"],
)
def test_ulimits_that_cannot_be_meant(text):
    with pytest.raises(InvalidInput):
        parse_ulimit(text)


@pytest.mark.usefixtures("root")
def test_capabilities_and_ulimits_are_in_force_for_every_command(engine):
    request = RunRequest(
        argv=("sleep", "100"),
        cap_drop=("ALL",),
        cap_add=("NET_RAW",),
        ulimits=(Ulimit("nofile", 64, 128),),
    )
    wanted = f"CapEff:\t{mask(frozenset({'NET_RAW'})):016x}\nCapBnd:\t0000000000002000\n64\n128\n"
    with engine.spawn(RunRequest(**{**vars(request), "argv": SHOW})) as attached:
        first = attached.communicate(None, most_bytes=4096)[0]
    container = engine.start(request)
    assert first.decode() == container.exec(SHOW).stdout.decode() == wanted
    info = container.inspect()
    assert (info.capabilities, info.ulimits) == (("NET_RAW",), request.ulimits)


@pytest.mark.usefixtures("root")
def test_a_ulimit_beyond_the_machines_is_refused_by_name(engine):
    request = RunRequest(argv=("true",), ulimits=(Ulimit("nofile", 2**40, 2**40),))
    with pytest.raises(LimitNotEnforceable, match="nofile is at most"):
        engine.start(request)
    assert engine.containers() == ()
