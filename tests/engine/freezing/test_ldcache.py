"""The loader's cache: what ldconfig reads of the machine's own, and of a smaller one made of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellblock_engine.freezing import ldcache
from support import capabilities


@pytest.fixture(scope="module")
def ldconfig() -> str:
    if not Path(ldcache.PLACE).exists():
        pytest.skip(f"needs {ldcache.PLACE}")
    return capabilities.need_program("ldconfig")


def listed(ldconfig: str, cache: str) -> list[tuple[str, str]]:
    done = subprocess.run([ldconfig, "-p", "-C", cache], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if " => " in line and "hwcap" not in line]
    return [re.fullmatch(r"\t(\S+) \(.*\) => (\S+)", line).groups() for line in lines]


def test_the_machines_cache_is_read_as_ldconfig_does(ldconfig):
    found = [(entry.name, entry.path) for entry in ldcache.read()]
    assert "libc.so.6" in dict(found)
    assert found == listed(ldconfig, ldcache.PLACE)


def test_a_smaller_one_is_read_by_ldconfig_and_by_this(ldconfig, tmp_path):
    entries = ldcache.read()
    paths = {entry.path for entry in entries[::3]}
    kept = ldcache.kept(entries, paths)
    place = tmp_path / "ld.so.cache"
    place.write_bytes(ldcache.encode(kept))
    assert ldcache.read(str(place)) == kept
    assert listed(ldconfig, str(place)) == [(entry.name, entry.path) for entry in kept]
    assert {entry.path for entry in kept} == paths


def test_what_is_no_cache_has_no_entries(tmp_path):
    place = tmp_path / "cache"
    assert ldcache.read(str(place)) == ()
    for content in (b"", b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1" + b"\xff" * 28, b"x" * 2**25):
        place.write_bytes(content)
        assert ldcache.read(str(place)) == ()


@given(st.data())
def test_any_bytes_are_read_or_not(tmp_path_factory, data):
    entries = (ldcache.Entry(0x303, "libone.so", "/lib/libone.so"),) * 3
    broken = bytearray(ldcache.encode(entries))
    for _ in range(4):
        broken[data.draw(st.integers(20, len(broken) - 1))] = data.draw(st.integers(0, 255))
    place = tmp_path_factory.getbasetemp() / "broken-cache"
    place.write_bytes(broken)
    assert len(ldcache.read(str(place))) <= 200_000
