"""Why a container ended, from the kernel's counters."""

from __future__ import annotations

import pytest

from cellblock_engine import CommandNotFound, DiskFull, Killed, OutOfMemory, PidsExceeded, TimedOut
from cellblock_engine.linux.cgroups import Counters, Limits
from cellblock_engine.runtime import verdicts

NOTHING = Counters(
    oom_kills=0,
    memory_failures=0,
    memory_peak_bytes=1 << 20,
    pids_refused=0,
    pids_peak=None,
    cpu_usage_ns=None,
)
LIMITS = Limits(64 << 20, None, 16)


def decide(exit_code=1, counters=NOTHING, timed_out_s=None, killed=None, full_bytes=None):
    plain = verdicts.decide(
        exit_code=exit_code,
        counters=lambda: counters,
        limits=LIMITS,
        timed_out_s=timed_out_s,
        killed=killed,
        full_bytes=full_bytes,
    )
    return verdicts.verdict_of(plain)


def test_137_alone_is_no_verdict():
    assert decide(exit_code=137) is None


def test_an_oom_at_its_own_limit_is_told_from_one_around_it():
    own = decide(137, NOTHING._replace(oom_kills=1, memory_failures=9))
    around = decide(137, NOTHING._replace(oom_kills=1))
    assert isinstance(own, OutOfMemory)
    assert own.own
    assert own.limit_bytes == 64 << 20
    assert "limit of 64 MiB" in str(own)
    assert isinstance(around, OutOfMemory)
    assert not around.own
    assert "around the container" in str(around)


def test_a_command_that_coped_ended_by_itself():
    assert decide(0, NOTHING._replace(oom_kills=1, pids_refused=3)) is None


def test_a_full_disk_is_one_only_where_the_command_failed_of_nothing_else():
    full = decide(1, full_bytes=1 << 20)
    assert isinstance(full, DiskFull)
    assert full.limit_bytes == 1 << 20
    assert decide(0, full_bytes=1 << 20) is None
    assert isinstance(decide(137, NOTHING._replace(oom_kills=1), full_bytes=1), OutOfMemory)
    assert isinstance(decide(137, killed="by SIGKILL, as asked", full_bytes=1), Killed)


def test_pids_time_and_kills():
    pids = decide(1, NOTHING._replace(pids_refused=3))
    assert isinstance(pids, PidsExceeded)
    assert (pids.limit, pids.refused) == (16, 3)
    assert isinstance(decide(0, timed_out_s=2.0), TimedOut)
    assert isinstance(decide(143, killed="by SIGTERM, as asked"), Killed)


@pytest.mark.parametrize(
    ("plain", "kind"),
    [({"kind": "CommandNotFound", "message": "m"}, CommandNotFound)],
)
def test_errors_keep_their_kind(plain, kind):
    error = verdicts.error_of(plain)
    assert type(error) is kind
    assert str(error) == "m"
