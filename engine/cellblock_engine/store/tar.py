"""Tar archives as a stream of entries, from bytes nobody vouches for.

Reads what image layers are made of: V7, ustar, pax (POSIX.1-2017, "pax Interchange Format") and
GNU (tar(5), "GNU tar Archives") with long names and base-256 numbers. It writes nothing and
resolves no names; sparse files, multi-volume archives and unknown types are refused. Every size
is checked before it is believed, and the time spent is linear in the bytes read.

Only built-in modules are imported: the unpacker starts with this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from ..errors import InvalidLayer

BLOCK = 512
_ZEROS = bytes(BLOCK)
_MAX_EXTENSION_BYTES = 2**20  # of one pax header or GNU long name; Go's archive/tar has the same
_MAX_NUMBER_DIGITS = 20
_NS = 10**9

FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)
_HEADER_ONLY = frozenset((HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_KNOWN = _HEADER_ONLY | {FILE}
XATTR = b"SCHILY.xattr."


class Entry(NamedTuple):
    """One member of an archive. Names are bytes as recorded; ``size`` counts the data to come.

    A NamedTuple, not a dataclass: tens of thousands are made a second.
    """

    name: bytes
    kind: bytes
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    link: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]


class Stream:
    """Bytes that arrive in chunks, read in order; ``offset`` counts those already taken."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0
        self.offset = 0

    def read(self, count: int) -> bytes:
        """Return exactly ``count`` bytes, or none at all at the end. Raises InvalidLayer."""
        end = self._at + count
        if end <= len(self._chunk):
            data = self._chunk[self._at : end]
            self._at = end
            self.offset += count
            return data
        data = b"".join(self.pieces_until_end(count))
        if data and len(data) < count:
            raise InvalidLayer("the archive ends in the middle of an entry")
        return data

    def pieces(self, count: int) -> Iterator[memoryview]:
        """Yield the next ``count`` bytes without copying them. Raises InvalidLayer."""
        end = self.offset + count
        yield from self.pieces_until_end(count)
        if self.offset < end:
            raise InvalidLayer("the archive ends in the middle of a file")

    def pieces_until_end(self, count: int) -> Iterator[memoryview]:
        """Yield the next ``count`` bytes, or as many as there still are."""
        while count:
            if self._at == len(self._chunk):
                self._chunk, self._at = next(self._chunks, b""), 0
                if not self._chunk:
                    return
            piece = memoryview(self._chunk)[self._at : self._at + count]
            self._at += len(piece)
            self.offset += len(piece)
            count -= len(piece)
            yield piece

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes. Raises InvalidLayer where there are fewer."""
        end = self._at + count
        if end <= len(self._chunk):
            self._at = end
            self.offset += count
            return
        for _ in self.pieces(count):
            pass

    def drain(self) -> None:
        """Pass over all that is left."""
        self.offset += len(self._chunk) - self._at
        self._at = len(self._chunk)
        for chunk in self._chunks:
            self.offset += len(chunk)


def entries(stream: Stream, max_entries: int) -> Iterator[Entry]:
    """Yield the entries of an archive; the caller may read an entry's data from ``stream``.

    What it leaves is skipped. Ends at the two zero blocks or, as many writers leave them out,
    at the end of the stream. Raises InvalidLayer.
    """
    pax: dict[bytes, bytes] = {}
    long_name = long_link = None
    for _ in range(max_entries):
        header = stream.read(BLOCK)
        if not header or header == _ZEROS:
            if header and stream.read(BLOCK) not in (b"", _ZEROS):
                raise InvalidLayer("the archive goes on after an end-of-archive block")
            return
        _check_sum(header)
        kind = header[156:157]
        if kind in b"xgLK":
            extension = _extension(stream, _number(header[124:136]))
            if kind == b"x":
                pax = _pax_records(extension)
            elif kind == b"L":
                long_name = extension.split(b"\0", 1)[0]
            elif kind == b"K":
                long_link = extension.split(b"\0", 1)[0]
            continue
        entry = _entry(header, pax, long_name, long_link)
        pax, long_name, long_link = {}, None, None
        end = stream.offset + entry.size
        yield entry
        stream.skip(end - stream.offset)
        for _ in stream.pieces_until_end(-entry.size % BLOCK):
            pass  # writers that leave out the end (umoci insert) leave out this padding too
    raise InvalidLayer(f"the archive has more than {max_entries} headers")


def _extension(stream: Stream, size: int) -> bytes:
    if not 0 <= size <= _MAX_EXTENSION_BYTES:
        raise InvalidLayer(f"the archive has an extension header of {size} bytes")
    data = stream.read(size)
    if len(data) < size:
        raise InvalidLayer("the archive ends in the middle of an extension header")
    stream.skip(-size % BLOCK)
    return data


def _check_sum(header: bytes) -> None:
    """Compare the sum of the header's bytes, its own field taken as blanks (tar(5))."""
    recorded = _number(header[148:156])
    blanked = header[:148] + b"        " + header[156:]
    if sum(blanked) != recorded:
        signed = sum(blanked) - 256 * sum(byte > 127 for byte in blanked)  # some old writers
        if signed != recorded:
            raise InvalidLayer("the archive has a header whose check sum is wrong")


@lru_cache(maxsize=4096)
def _number(field: bytes) -> int:
    """Return a header field's number: octal digits or, in GNU's extension, base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        if field[0] & 0x40:
            value -= 1 << 8 * len(field) - 1
        return value
    text = field.strip(b" \0").split(b"\0", 1)[0]
    if not text:
        return 0
    try:
        # int() alone would read signs, underscores and prefixes.
        return int(text, 8) if text.isdigit() else int("")
    except ValueError:
        raise InvalidLayer(f"the archive has the number {text[:20]!r} in a header") from None


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _entry(
    header: bytes, pax: dict[bytes, bytes], long_name: bytes | None, long_link: bytes | None
) -> Entry:
    name = _ustar_name(header) if long_name is None else long_name
    link = _text(header[157:257]) if long_link is None else long_link
    size, mode = _number(header[124:136]), _number(header[100:108])
    uid, gid = _number(header[108:116]), _number(header[116:124])
    mtime_ns = _number(header[136:148]) * _NS
    xattrs: dict[bytes, bytes] = {}
    if pax:
        name, link = pax.get(b"path", name), pax.get(b"linkpath", link)
        size = _decimal(pax.get(b"size"), size)
        uid, gid = _decimal(pax.get(b"uid"), uid), _decimal(pax.get(b"gid"), gid)
        if mtime := pax.get(b"mtime"):
            mtime_ns = _time_ns(mtime)
        xattrs = {
            key.removeprefix(XATTR): value for key, value in pax.items() if key.startswith(XATTR)
        }
    kind = header[156:157]
    if kind in (b"\0", b"7"):  # V7's regular file, and POSIX's contiguous one
        kind = DIRECTORY if kind == b"\0" and name.endswith(b"/") else FILE
    shown = name[-60:]
    if kind not in _KNOWN:
        what = "a sparse file" if kind == b"S" else f"of the unknown type {kind!r}"
        raise InvalidLayer(f"entry {shown!r} is {what}: not supported")
    if size < 0:
        raise InvalidLayer(f"entry {shown!r} has the size {size}")
    if not (0 <= uid < 2**32 - 1 and 0 <= gid < 2**32 - 1):
        raise InvalidLayer(f"entry {shown!r} has the owner {uid}:{gid}")
    device = (0, 0)
    if kind in (CHARACTER, BLOCK_DEVICE):
        device = (_number(header[329:337]), _number(header[337:345]))
    if kind in _HEADER_ONLY:
        size = 0  # no data follows, whatever is recorded
    return Entry(name, kind, size, mode & 0o7777, uid, gid, mtime_ns, link, device, xattrs)


def _ustar_name(header: bytes) -> bytes:
    name = _text(header[:100])
    if header[257:263] == b"ustar\0":
        star = header[508:512] == b"tar\0"  # its prefix is shorter, times follow
        prefix = _text(header[345 : 476 if star else 500])
        if prefix:
            return prefix + b"/" + name
    return name


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Return the ``length key=value`` records of a pax header, the last of each key."""
    records = {}
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + _MAX_NUMBER_DIGITS)
        digits = data[at:blank] if blank > at else b""
        end = at + int(digits) if digits.isdigit() else 0
        equals = data.find(b"=", blank + 1, end)
        if not blank < equals < end <= len(data) or data[end - 1] != 0x0A:
            raise InvalidLayer("the archive has a malformed pax header")
        key = data[blank + 1 : equals]
        if key.startswith(b"GNU.sparse."):
            raise InvalidLayer("the archive has a sparse file: not supported")
        records[key] = data[equals + 1 : end - 1]
        at = end
    return records


def _decimal(text: bytes | None, default: int) -> int:
    if text is None or not text:  # an empty value takes the record back (POSIX)
        return default
    if not text.isdigit() or len(text) > _MAX_NUMBER_DIGITS:
        raise InvalidLayer(f"the archive has the number {text[:20]!r} in a pax header")
    return int(text)


def _time_ns(text: bytes) -> int:
    """Return nanoseconds from decimal seconds, exactly; digits beyond are cut off."""
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > _MAX_NUMBER_DIGITS or not (fraction or b"0").isdigit():
        raise InvalidLayer(f"the archive has the time {text[:20]!r} in a pax header")
    ns = int(whole) * _NS + int(fraction[:9].ljust(9, b"0"))
    return -ns if text.startswith(b"-") else ns
