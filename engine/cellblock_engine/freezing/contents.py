"""The nodes of a layer become the entries of its archive, and the files' contents after them.

Files are opened through no symbolic link, and have to be what was planned.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from ..linux import syscalls as sys
from ..store import tar
from ..store.beneath import GONE
from ..store.copying import Source
from ..store.pack import changed
from . import omissions
from .nodes import Node

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RESOLVE = sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS


def entries(nodes: Iterable[Node]) -> Iterator[tar.Entry | Source]:
    """Yield an archive's entries, each file's content after its own.

    What has credentials in it, of files whose content decides, is left out. Raises Conflict for a
    file that is not as it was when it was planned, OSError.
    """
    root = os.open("/", _ROOT)
    try:
        for node in nodes:
            if node.kind != tar.FILE:
                yield _entry(node)
            elif node.content is not None:
                yield _entry(node)
                yield from _made(node.content, os.fsencode(node.path))
            else:
                yield from _file(root, node)
    finally:
        os.close(root)


def _file(root: int, node: Node) -> Iterator[tar.Entry | Source]:
    path = os.fsencode(node.path[1:])
    try:
        fd = sys.openat2(root, path, _FILE, resolve=_RESOLVE)
    except OSError as error:
        if error.errno not in GONE:
            raise
        raise changed(path) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or (status.st_size, status.st_mtime_ns) != (
            node.size,
            node.mtime_ns,
        ):
            raise changed(path)
        if omissions.is_checked(node.path):
            content = os.pread(fd, omissions.CHECKED_BYTES + 1, 0)
            if omissions.has_credentials(content):
                return
        yield _entry(node)
        yield Source(path, fd, 0, status.st_size, moving=False)
    finally:
        os.close(fd)


def _made(content: bytes, path: bytes) -> Iterator[Source]:
    """Yield a content that no file has."""
    fd = os.memfd_create("content", os.MFD_CLOEXEC)
    try:
        os.pwrite(fd, content, 0)
        yield Source(path, fd, 0, len(content), moving=False)
    finally:
        os.close(fd)


def _entry(node: Node) -> tar.Entry:
    name = os.fsencode(node.path[1:])
    if node.kind == tar.DIRECTORY:
        name = name + b"/" if name else b"./"
    link = os.fsencode(node.link)
    return tar.Entry(name, node.kind, node.size, node.mode, 0, 0, node.mtime_ns, link, (0, 0), {})
