"""Blobs as a stream of uncompressed chunks, and the reverse: gzip by isal, zstd, or as they are.

The format is told by its magic number, as Docker does. Several gzip members or zstd frames in a
row are one stream (RFC 1952, RFC 8878); anything else after one is refused. The libraries are
imported when a blob needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from ..errors import InvalidLayer, StoreError

if TYPE_CHECKING:
    from typing import Protocol

    class _Compressor(Protocol):
        def compress(self, data: bytes, /) -> bytes: ...
        def flush(self) -> bytes: ...

    class _Decompressor(Protocol):
        @property
        def eof(self) -> bool: ...
        @property
        def needs_input(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...
        def decompress(self, data: bytes, max_length: int) -> bytes: ...


_INPUT_BYTES = 2**18
_CHUNK_BYTES = 2**20
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes((n, 0x2A, 0x4D, 0x18)) for n in range(0x50, 0x60)))
_MAX_WINDOW_LOG = 27  # 128 MiB, what the zstd command accepts by default

Compression = Literal["gzip", "zstd"]
# Layers are compressed while somebody waits: level 1 is ten times as fast as zlib's default.
_GZIP_LEVEL, _GZIP_CONTAINER = 1, 31
_ZSTD_LEVEL = 3


def compress(plain: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """Yield the stream compressed; the same stream gives the same bytes, as no time is in it."""
    compressor = _gzip() if compression == "gzip" else _zstd()
    for piece in plain:
        if done := compressor.compress(piece):
            yield done
    yield compressor.flush()


def chunks(fd: int, *, max_bytes: int, read: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the uncompressed content of the blob ``fd``, at most ``max_bytes`` of it.

    ``read`` is told how much of the blob itself has been read so far. Raises InvalidLayer.
    """
    total = 0
    try:
        for chunk in _plain(_blocks(fd, read)):
            total += len(chunk)
            if total > max_bytes:
                raise InvalidLayer(f"it unpacks to more than the {max_bytes} bytes allowed")
            yield chunk
    except OSError as error:
        raise StoreError(f"cannot read what is to be unpacked: {error.strerror}") from error


def compression_of(beginning: bytes) -> Literal["gzip", "zstd"] | None:
    """Return how content that begins with these four bytes, or fewer, is compressed."""
    if beginning.startswith(_GZIP_MAGIC):
        return "gzip"
    return "zstd" if beginning.startswith(_ZSTD_MAGICS) else None


def _blocks(fd: int, read: Callable[[int], None]) -> Iterator[bytes]:
    total = 0
    while block := os.read(fd, _INPUT_BYTES):
        total += len(block)
        yield block
        read(total)


def _plain(blocks: Iterator[bytes]) -> Iterator[bytes]:
    first = next(blocks, b"")
    match compression_of(first):
        case "gzip":
            yield from _gunzip(first, blocks)
        case "zstd":
            yield from _unzstd(first, blocks)
        case None:
            yield first
            yield from blocks


def _gunzip(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    from isal import igzip_lib, isal_zlib  # noqa: PLC0415 - only where a blob needs it

    def member() -> _Decompressor:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    try:
        yield from _decompress(member, _GZIP_MAGIC, first, blocks)
    except isal_zlib.error as error:  # type: ignore[misc] # the stub has an instance there
        raise InvalidLayer(f"the gzip stream is damaged: {error}") from error


def _gzip() -> _Compressor:
    from isal import isal_zlib  # noqa: PLC0415 - only where a blob needs it

    return isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_CONTAINER)


def _zstd() -> _Compressor:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415

    return zstd.ZstdCompressor(_ZSTD_LEVEL)


def _unzstd(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415

    def frame() -> _Decompressor:
        limit: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        return zstd.ZstdDecompressor(options=limit)

    try:
        yield from _decompress(frame, _ZSTD_MAGICS, first, blocks)
    except zstd.ZstdError as error:
        raise InvalidLayer(f"the zstd stream is damaged: {error}") from error


def _decompress(
    start: Callable[[], _Decompressor],
    magic: bytes | tuple[bytes, ...],
    data: bytes,
    blocks: Iterator[bytes],
) -> Iterator[bytes]:
    """Yield what one or more members hold, in chunks of bounded size."""
    while data:
        decompressor = start()
        while not decompressor.eof:
            if not data and decompressor.needs_input:
                data = next(blocks, b"")
                if not data:
                    raise InvalidLayer("the compressed stream is truncated")
            chunk = decompressor.decompress(data, _CHUNK_BYTES)
            data = b""
            if chunk:
                yield chunk
        data = decompressor.unused_data or next(blocks, b"")
        while 0 < len(data) < 4 and (more := next(blocks, b"")):
            data += more
        if data and not data.startswith(magic):
            raise InvalidLayer("the compressed stream is followed by something else")
