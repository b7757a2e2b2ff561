"""Containers that are to be committed, and what is in the layers that commits add."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from typing import Any

from cellblock_engine import Digest, Engine, RunRequest
from cellblock_engine.layout import Layout
from cellblock_engine.store.pack import pack


def ended(engine: Engine, image: str, code: str, **asked: Any) -> str:
    """Run Python code in a container that stays, see it succeed, and return what it printed."""
    request = RunRequest(**{"image": image, "argv": ("python3", "-c", code), "name": "box"} | asked)
    with engine.spawn(request) as attached:
        stdout, stderr, end = attached.communicate(None, most_bytes=1 << 20)
    assert (end.exit_code, stderr) == (0, b"")
    return stdout.decode()


def archived(engine: Engine, layer: Digest) -> bytes:
    """Return the archive of a layer, whose digest an independent hash must find again."""
    fd = os.open(Layout.default(engine.home).layers / layer.hex / "fs", os.O_RDONLY)
    try:
        archive = b"".join(pack(fd))
    finally:
        os.close(fd)
    assert hashlib.sha256(archive).hexdigest() == layer.hex
    return archive


def names_in(archive: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return set(opened.getnames())
