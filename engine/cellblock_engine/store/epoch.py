"""Files as they are under SOURCE_DATE_EPOCH: none is younger, and compiled Python still counts.

The specification is reproducible-builds.org's. A .pyc names the time of its source (PEP 552), so
where that is moved back, Python would take each for outdated, and its bytes would tell when it was
made. Such a one is rewritten to name the hash of its source, which is not looked at when it is
imported. One that did not fit its source before is left as it is, and does not then.
"""

from __future__ import annotations

import _imp
import os
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from . import beneath, tar
from .copying import Adopted, Source

_NS = 10**9
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HEADER_BYTES = 16  # magic, flags, and either mtime and size or a hash
_BY_TIME, _BY_HASH_UNCHECKED = bytes(4), b"\1\0\0\0"
_MAGIC_END = b"\r\n"
_LARGEST_SOURCE_BYTES = 16 * 2**20
_CACHE = b"__pycache__"


def moment(epoch_s: int | None) -> datetime:
    """Return when an image is made: then, or now."""
    return datetime.now(UTC) if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)


def clamped(
    described: Iterable[tar.Entry | Source | Adopted], epoch_s: int, root: int
) -> Iterator[tar.Entry | Source | Adopted]:
    """Yield what is ``described`` of the tree ``root``, with no time after ``epoch_s``.

    What is adopted is as this has made it before.
    """
    epoch_ns = epoch_s * _NS
    compiled: bytes | None = None  # the path of a .pyc whose content is next
    for each in described:
        if isinstance(each, tar.Entry):
            whole = each.kind == tar.FILE and each.size >= _HEADER_BYTES
            compiled = each.name if whole and each.name.endswith(b".pyc") else None
            yield each if each.mtime_ns <= epoch_ns else each._replace(mtime_ns=epoch_ns)
        elif compiled is None or isinstance(each, Adopted):
            yield each
        else:
            header = os.pread(each.fd, _HEADER_BYTES, each.offset)
            yield each._replace(head=_timeless(header, compiled, epoch_s, root))


def _timeless(header: bytes, path: bytes, epoch_s: int, root: int) -> bytes:
    """Return the header of the .pyc at ``path``, without a time if that is moved back."""
    magic, flags, mtime = header[:4], header[4:8], int.from_bytes(header[8:12], "little")
    if len(header) < _HEADER_BYTES:  # it is becoming shorter
        return b""
    if not magic.endswith(_MAGIC_END) or flags != _BY_TIME or mtime <= epoch_s:
        return header
    source = _source(root, path, header[8:])
    if source is None:
        return header
    digest = _imp.source_hash(int.from_bytes(magic, "little"), source)
    return magic + _BY_HASH_UNCHECKED + digest


def _source(root: int, path: bytes, like: bytes) -> bytes | None:
    """Return the source of a .pyc if its time and size are as that says."""
    above, _, name = path.rpartition(b"/")
    package, _, cache = above.rpartition(b"/")
    stem = name.split(b".", 1)[0] if cache == _CACHE else name.removesuffix(b".pyc")
    with beneath.directory(root, package if cache == _CACHE else above) as directory:
        if directory is None:
            return None
        try:
            fd = os.open(stem + b".py", _FILE, dir_fd=directory)
        except OSError:
            return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_SOURCE_BYTES:
            return None
        stamp = (status.st_mtime_ns // _NS, status.st_size)
        if b"".join((number % 2**32).to_bytes(4, "little") for number in stamp) != like:
            return None
        return file.read(_LARGEST_SOURCE_BYTES)
