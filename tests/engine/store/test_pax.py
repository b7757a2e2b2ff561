"""Headers are read back as they were meant, by our reader and by Python's."""

import io
import tarfile

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cellblock_engine.errors import InvalidLayer
from cellblock_engine.store import pax, tar

PLAIN = tar.Entry(b"name", tar.FILE, 0, 0o644, 0, 0, 1_700_000_000 * 10**9, b"", (0, 0), {})
KINDS = st.sampled_from([tar.FILE, tar.DIRECTORY, tar.SYMLINK, tar.HARD_LINK, tar.FIFO])
NAMES = st.binary(min_size=1, max_size=400).filter(lambda name: b"\0" not in name)
KEYS = NAMES.filter(lambda key: b"=" not in key)
IDS = st.integers(0, 2**32 - 2)

ENTRIES = st.builds(
    tar.Entry,
    name=NAMES,
    kind=KINDS,
    size=st.just(0),
    mode=st.integers(0, 0o7777),
    uid=IDS,
    gid=IDS,
    mtime_ns=st.integers(-(2**63), 2**64),
    link=st.binary(max_size=400).filter(lambda link: b"\0" not in link),
    device=st.just((0, 0)),
    xattrs=st.dictionaries(KEYS, st.binary(max_size=300), max_size=4),
)


def read(archive: bytes) -> tar.Entry:
    (entry,) = tar.entries(tar.Stream([archive]), max_entries=10)
    return entry


@given(ENTRIES)
def test_entries_are_read_as_they_were_written(entry: tar.Entry):
    encoded = pax.encode(entry)
    assert len(encoded) % tar.BLOCK == 0
    assert read(encoded + pax.END) == entry


@given(ENTRIES)
def test_pythons_tarfile_reads_the_same(entry: tar.Entry):
    assume(entry.name.strip(b"/"))  # tarfile has its own idea of that
    archive = io.BytesIO(pax.encode(entry) + pax.END)
    with tarfile.open(fileobj=archive, encoding="utf-8") as opened:
        (member,) = opened.getmembers()
    encoding = ("utf-8", "surrogateescape")
    # tarfile leaves out a slash at the end of what a pax header says, and only there.
    assert member.name.encode(*encoding).rstrip(b"/") == entry.name.rstrip(b"/")
    assert member.linkname.encode(*encoding).rstrip(b"/") == entry.link.rstrip(b"/")
    assert (member.mode, member.uid, member.gid) == (entry.mode, entry.uid, entry.gid)
    assert member.mtime == pytest.approx(entry.mtime_ns / 1e9)


def test_what_fits_needs_no_pax():
    for change in (
        {"name": b"n" * 100, "link": b"l" * 100},
        {"uid": 8**7 - 1, "gid": 8**7 - 1, "mode": 0o7777},
        {"mtime_ns": (8**11 - 1) * 10**9},
        {"mtime_ns": 0},
        {"kind": tar.CHARACTER, "device": (4095, 2**20 - 1)},
    ):
        entry = PLAIN._replace(**change)
        encoded = pax.encode(entry)
        assert len(encoded) == tar.BLOCK
        assert read(encoded + pax.END) == entry


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 2**40])
def test_large_sizes(size: int):
    stream = tar.Stream([pax.encode(PLAIN._replace(size=size))])
    assert next(tar.entries(stream, max_entries=10)).size == size


def test_the_length_of_a_record_counts_itself():
    for size in range(1100):  # of one to four digits
        entry = PLAIN._replace(xattrs={b"user.x": b"v" * size})
        assert read(pax.encode(entry) + pax.END) == entry


def test_an_attribute_that_no_record_can_name_is_refused():
    with pytest.raises(InvalidLayer, match=r"user.a=b.* remove it"):
        pax.encode(PLAIN._replace(xattrs={b"user.a=b": b""}))
