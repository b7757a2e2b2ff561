from __future__ import annotations

import pytest

from cellblock_engine.linux.owners import ROOT, Owner


@pytest.mark.parametrize("owner", [Owner(0, 0), Owner(33, 44), Owner(65535, 2**32 - 2)])
def test_what_is_written_is_read(owner: Owner) -> None:
    assert Owner.parse(owner.value()) == owner


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b":",
        b"1",
        b"1:",
        b":1",
        b"1:2:3",
        b"-1:0",
        b"+1:0",
        b" 1:0",
        b"1_0:0",
        b"4294967295:0",
        b"0:99999999999999999999",
        b"\xd9\xa1:\xd9\xa1",
        b"1:\xff",
        b"a:b",
    ],
)
def test_what_makes_no_sense_is_roots(value: bytes) -> None:
    assert Owner.parse(value) == ROOT
