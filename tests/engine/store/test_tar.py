import time

import pytest

from cellblock_engine.errors import InvalidLayer
from cellblock_engine.store import tar
from support import tars


def read(archive: bytes, chunk_bytes: int = 1000) -> list[tar.Entry]:
    chunks = [archive[at : at + chunk_bytes] for at in range(0, len(archive), chunk_bytes)]
    return list(tar.entries(tar.Stream(chunks), max_entries=100_000))


def one(archive: bytes) -> tar.Entry:
    (entry,) = read(archive)
    return entry


@pytest.mark.parametrize("chunk_bytes", [1, 7, 511, 512, 513, 4096, 2**20])
def test_data_is_read_or_skipped_whatever_the_chunks(chunk_bytes: int):
    files = {b"a": b"x" * 513, b"b": b"", b"c": b"y" * 512, b"d": b"z" * 3000}
    archive = tars.archive(*(tars.file(name, data) for name, data in files.items()))
    chunks = [archive[at : at + chunk_bytes] for at in range(0, len(archive), chunk_bytes)]
    stream = tar.Stream(chunks)
    seen = {}
    for entry in tar.entries(stream, max_entries=10):
        if entry.name != b"a":
            seen[entry.name] = b"".join(bytes(piece) for piece in stream.pieces(entry.size))
    assert seen == {name: data for name, data in files.items() if name != b"a"}
    stream.drain()
    assert stream.offset == len(archive)


def test_prefixes_of_ustar_and_star_come_before_the_name():
    assert one(tars.archive(tars.header(b"name", prefix=b"a/b"))).name == b"a/b/name"
    star = tars.header(b"name", prefix=b"a/b", raw={476: b"00000000000\0", 508: b"tar\0"})
    assert one(star + tars.END).name == b"a/b/name"
    gnu = tars.header(b"name", prefix=b"garbage", magic=b"ustar  \0")
    assert one(gnu + tars.END).name == b"name"


@pytest.mark.attack(40)
def test_long_names_of_gnu_and_pax_are_exact_bytes():
    name = b"d/" * 60 + b"new\nline \xff\xfe" + b"n" * 200
    assert one(tars.archive(tars.gnu_long(name), tars.header(b"short"))).name == name
    assert one(tars.archive(tars.pax({b"path": name}), tars.header(b"short"))).name == name
    link = tars.archive(
        tars.gnu_long(name, b"K"), tars.pax({b"linkpath": b"wins"}), tars.symlink(b"l", b"t")
    )
    assert one(link).link == b"wins"


def test_extensions_hold_for_one_entry_and_global_ones_are_ignored():
    archive = tars.archive(
        tars.pax({b"path": b"global"}, b"g"),
        tars.pax({b"path": b"first", b"mtime": b"1.5"}),
        tars.header(b"a"),
        tars.header(b"b", mtime=7),
    )
    assert [(e.name, e.mtime_ns) for e in read(archive)] == [
        (b"first", 1_500_000_000),
        (b"b", 7_000_000_000),
    ]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (b"0", 0),
        (b"1700000000.123456789", 1_700_000_000_123_456_789),
        (b"1.1234567899", 1_123_456_789),
        (b"-1.5", -1_500_000_000),
        (b"12.", 12_000_000_000),
    ],
)
def test_pax_times_are_exact(text: bytes, ns: int):
    assert one(tars.archive(tars.pax({b"mtime": text}), tars.header(b"f"))).mtime_ns == ns


def test_numbers_in_base_256():
    entry = one(tars.archive(tars.header(b"f", uid=2**31, gid=8**7, mtime=-5)))
    assert (entry.uid, entry.gid, entry.mtime_ns) == (2**31, 8**7, -5_000_000_000)


def test_pax_numbers_override_and_empty_ones_do_not():
    records = {b"uid": b"70000000", b"gid": b"", b"size": b"3"}
    archive = tars.archive(
        tars.pax(records), tars.header(b"f", size=0, gid=5), tars.padded(b"abc"), tars.header(b"g")
    )
    first, second = read(archive)
    assert (first.uid, first.gid, first.size) == (70_000_000, 5, 3)
    assert second.name == b"g"


def test_v7_directories_and_old_regular_files():
    archive = tars.archive(
        tars.header(b"d/", b"\0", magic=b"\0" * 8),
        tars.header(b"f", b"\0"),
        tars.header(b"c", b"7"),
    )
    assert [e.kind for e in read(archive)] == [tar.DIRECTORY, tar.FILE, tar.FILE]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_sizes_of_entries_without_data_are_ignored(kind: bytes):
    archive = tars.archive(tars.header(b"a", kind, size=5000, link=b"t"), tars.header(b"b"))
    assert [e.name for e in read(archive)] == [b"a", b"b"]


@pytest.mark.parametrize("ending", [b"", bytes(512), bytes(1024), bytes(10240)])
def test_archives_may_end_with_or_without_zero_blocks(ending: bytes):
    assert len(read(tars.file(b"f", b"data") + ending)) == 1


def test_what_follows_the_end_is_not_read_as_entries():
    assert len(read(tars.archive(tars.file(b"f")) + tars.file(b"g"))) == 1


NEGATIVE = tars.header(b"f", size=-1)
HOSTILE = {
    "negative size": NEGATIVE,
    "negative size of a directory": tars.header(b"d", b"5", size=-512),
    "negative size in octal": tars.header(b"f", raw={124: b"-0000000001\0"}),
    "size 2^63": tars.header(b"f", size=2**63) + b"x" * 512,
    "size 2^90": tars.header(b"f", raw={124: b"\x80" + b"\x7f" * 11}),
    "sign in a number": tars.header(b"f", raw={100: b"+000644\0"}),
    "underscore in a number": tars.header(b"f", raw={100: b"0_00644\0"}),
    "prefix in a number": tars.header(b"f", raw={100: b"0o00644\0"}),
    "digit 9 in octal": tars.header(b"f", raw={100: b"0000649\0"}),
    "wrong sum": tars.header(b"f")[:-1] + b"x",
    "half a header": tars.header(b"f")[:300],
    "half a file": tars.header(b"f", size=2000) + b"x" * 700,
    "one zero block": bytes(512) + tars.header(b"f"),
    "unknown type": tars.header(b"f", b"Z"),
    "sparse": tars.header(b"f", b"S", size=2**62),
    "sparse in pax": tars.pax({b"GNU.sparse.major": b"1"}) + tars.header(b"f"),
    "negative pax size": tars.pax({b"size": b"-1"}) + tars.header(b"f"),
    "hexadecimal pax size": tars.pax({b"size": b"0x10"}) + tars.header(b"f"),
    "endless pax size": tars.pax({b"size": b"9" * 5000}) + tars.header(b"f"),
    "pax time of words": tars.pax({b"mtime": b"now"}) + tars.header(b"f"),
    "pax header of 2 MiB": tars.header(b"x", b"x", size=2**21) + bytes(2**21),
    "pax header cut off": tars.header(b"x", b"x", size=2**19) + b"30 path=",
    "negative pax header": tars.header(b"x", b"x", size=-1) + tars.header(b"f"),
    "long name of 1 GiB": tars.header(b"x", b"L", size=2**30),
    "record without length": tars.header(b"x", b"x", size=6) + tars.padded(b"path=a"),
    "record of length 0": tars.header(b"x", b"x", size=8) + tars.padded(b"0 path=a"),
    "record beyond the end": tars.header(b"x", b"x", size=10) + tars.padded(b"99 path=a\n"),
    "record without equals": tars.header(b"x", b"x", size=7) + tars.padded(b"7 path\n"),
    "record of negative length": tars.header(b"x", b"x", size=10) + tars.padded(b"-10 path=\n"),
    "uid of 2^32-1": tars.pax({b"uid": b"4294967295"}) + tars.header(b"f"),
    "negative gid": tars.header(b"f", gid=-1),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("archive", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.attack(37, 38)
def test_hostile_archives_are_refused(archive: bytes):
    with pytest.raises(InvalidLayer) as caught:
        read(archive + tars.END)
    assert "\n" not in str(caught.value)


@pytest.mark.attack(38)
def test_pax_headers_cost_linear_time():
    records = b"".join(tars.record(b"k%d" % n, b"v") for n in range(75_000))
    assert len(records) < 2**20
    header = tars.header(b"x", b"x", size=len(records)) + tars.padded(records)
    started = time.process_time()
    assert len(read(tars.archive(*[header + tars.header(b"f")] * 3))) == 3
    assert time.process_time() - started < 3


@pytest.mark.attack(38)
def test_the_number_of_headers_is_capped_extensions_included():
    archive = tars.archive(*[tars.pax({b"path": b"p"})] * 20, tars.header(b"f"))
    with pytest.raises(InvalidLayer, match="more than 20 headers"):
        list(tar.entries(tar.Stream([archive]), max_entries=20))
