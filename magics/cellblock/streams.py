"""Copying what a container writes to where its reader is, and stdin the other way.

One loop for terminal and notebook; bytes pass as they are. It ends when both streams have ended.
It starts no process and decides nothing about exit statuses.
"""

from __future__ import annotations

import codecs
import os
import selectors
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cellblock_engine import Attached

CHUNK_BYTES = 1 << 16  # the capacity of a pipe

Sink = Callable[[bytes], None]
"""Takes a chunk, and an empty one at the end. BrokenPipeError says that nobody reads any more."""


class TextStream(Protocol):
    """What is needed of ``sys.stdout``."""

    def write(self, text: str, /) -> object:
        """Take text."""

    def flush(self) -> object:
        """Show it."""


def pump(attached: Attached, stdout: Sink, stderr: Sink) -> None:
    """Pass on both streams until they have ended.

    A stream whose sink breaks is closed towards the container, whose next write to it then gets
    SIGPIPE, as in a pipeline.
    """
    with selectors.DefaultSelector() as selector:
        for source, sink in {attached.stdout: stdout, attached.stderr: stderr}.items():
            selector.register(source, selectors.EVENT_READ, sink)
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    chunk = os.read(key.fd, CHUNK_BYTES)
                except BlockingIOError:  # the container has read back what it had written
                    continue
                try:
                    key.data(chunk)
                except BrokenPipeError:
                    hang_up(key.fd)
                    chunk = b""
                if not chunk:
                    selector.unregister(key.fd)


def feed(attached: Attached, source: int) -> threading.Thread:
    """Start to copy ``source`` to the container's stdin; return the (daemon) thread that does.

    It ends at the end of either; the container then sees the end of its stdin. The thread has a
    descriptor of its own, because it may outlive the Attached while it waits for ``source``.
    """
    assert attached.stdin is not None
    target = os.dup(attached.stdin)
    attached.close_stdin()

    def copy() -> None:
        try:
            while chunk := os.read(source, CHUNK_BYTES):
                write_all(target, chunk)
        except OSError:
            pass  # the container reads no more, or is gone: its exit status says the rest
        finally:
            os.close(target)

    thread = threading.Thread(target=copy, name="cellblock-stdin", daemon=True)
    thread.start()
    return thread


def hang_up(descriptor: int) -> None:
    """End a stream without closing its number, which belongs to the Attached."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(nothing, descriptor, inheritable=False)
    finally:
        os.close(nothing)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``; write(2) may take less at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def to_descriptor(descriptor: int) -> Sink:
    """Return a sink that writes to a descriptor."""
    return lambda chunk: write_all(descriptor, chunk)


def to_text(stream: TextStream) -> Sink:
    """Return a sink that decodes UTF-8, a character split between chunks included.

    Of control sequences only colours pass, as for cells.
    """
    from cellblock_kernel import TextCleaner  # noqa: PLC0415 - notebooks only

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    cleaner = TextCleaner()

    def write(chunk: bytes) -> None:
        text = cleaner.feed(decoder.decode(chunk, final=not chunk))
        stream.write(text if chunk else text + cleaner.finish())
        stream.flush()

    return write
