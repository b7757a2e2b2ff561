"""The machine's figures as limits make them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cellblock_engine.linux.cgroups import Limits
from cellblock_engine.runtime.figures import (
    MEMORY,
    PROCESSORS,
    figures,
    meminfo,
    places,
    processor_count,
    processors,
)

MACHINE = """\
MemTotal:       24683656 kB
MemFree:        22426552 kB
MemAvailable:   23788256 kB
Buffers:          123456 kB
Active(anon):     123456 kB
SwapTotal:       1048576 kB
SwapFree:        1000000 kB
CommitLimit:    13390404 kB
VmallocTotal:   34359738367 kB
HugePages_Total:       7
Hugepagesize:       2048 kB
"""


def amounts(text):
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in text.splitlines()}


def test_memory_is_the_limit_and_nothing_of_it_is_used():
    text = meminfo(MACHINE, Limits(64 << 20))
    assert text.startswith("MemTotal:          65536 kB\nMemFree:           65536 kB\n")
    assert text.endswith("Hugepagesize:       2048 kB\n")
    assert amounts(text) == {
        "MemTotal": "65536 kB",
        "MemFree": "65536 kB",
        "MemAvailable": "65536 kB",
        "Buffers": "0 kB",
        "Active(anon)": "0 kB",
        "SwapTotal": "0 kB",
        "SwapFree": "0 kB",
        "CommitLimit": "65536 kB",
        "VmallocTotal": "34359738367 kB",
        "HugePages_Total": "7",
        "Hugepagesize": "2048 kB",
    }


@pytest.mark.parametrize(
    ("limits", "total", "swap"),
    [
        (Limits(1 << 50), 24683656, 0),  # more than there is
        (Limits(64 << 20, memory_swap_bytes=64 << 20), 65536, 0),
        (Limits(64 << 20, memory_swap_bytes=96 << 20), 65536, 32768),
        (Limits(64 << 20, memory_swap_bytes=1 << 50), 65536, 1048576),
        (Limits(64 << 20, memory_swap_bytes=-1), 65536, 1048576),
    ],
)
def test_no_more_is_told_than_the_machine_has(limits, total, swap):
    told = amounts(meminfo(MACHINE, limits))
    assert (told["MemTotal"], told["SwapTotal"]) == (f"{total} kB", f"{swap} kB")
    assert told["SwapFree"] == told["SwapTotal"]


def test_this_machines_own_is_understood():
    told = figures(MEMORY, Limits(64 << 20))
    machine = Path(MEMORY).read_text()
    assert amounts(told).keys() == amounts(machine).keys()
    assert [line.index(":") for line in told.splitlines()] == [
        line.index(":") for line in machine.splitlines()
    ]
    assert figures(PROCESSORS, Limits(cpus=0.5)) == "0\n"


@pytest.mark.parametrize(
    ("online", "limits", "shown"),
    [
        ("0-7", Limits(cpus=0.5), "0"),
        ("0-7\n", Limits(cpus=2), "0-1"),
        ("0-7", Limits(cpus=2.1), "0-2"),
        ("0-7", Limits(cpus=64), "0-7"),
        ("0-1,4-7", Limits(cpus=3), "0-1,4"),
        ("0-7", Limits(cpuset_cpus="1,3-4,6"), "1,3-4,6"),
        ("0-3", Limits(cpuset_cpus="2-99999"), "2-3"),
        ("0-7", Limits(cpus=1.5, cpuset_cpus="5-7"), "5-6"),
        ("0", Limits(cpus=1), "0"),
    ],
)
def test_processors(online, limits, shown):
    assert processors(online, limits) == shown


def test_only_what_is_limited_is_told():
    assert places(Limits(pids=5), has_sys=True) == ()
    assert places(Limits(1 << 26), has_sys=True) == (MEMORY,)
    assert places(Limits(cpus=1), has_sys=True) == (PROCESSORS,)
    assert places(Limits(1 << 26, cpus=1), has_sys=False) == (MEMORY,)
    assert processor_count(Limits(1 << 26)) is None
    assert processor_count(Limits(cpus=0.1)) == 1
    assert processor_count(Limits(cpuset_cpus="0")) == 1
    assert processor_count(Limits(cpus=1000)) == os.cpu_count()
