"""Where an archive goes: a stream, or a file that is there whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from ..errors import InvalidInput, StoreError


def write(archive: Iterable[bytes], target: Path | BinaryIO) -> None:
    """Write the archive; a file is written beside its place and renamed, for its owner only.

    Raises what ``archive`` raises, InvalidInput for a file that cannot be made, StoreError for
    one that cannot be written, OSError for a stream.
    """
    if not isinstance(target, Path):
        _pour(archive, target)
        target.flush()
        return
    path = Path(os.path.realpath(target))
    if not _is_replaceable(path):  # a pipe, a device
        with path.open("wb") as file:
            _pour(archive, file)
        return
    try:
        fd, beside = tempfile.mkstemp(prefix=f".{path.name[:200]}.", dir=path.parent)
    except OSError as error:
        raise InvalidInput(f"cannot write {target}: {error.strerror}") from error
    try:
        with open(fd, "wb") as file:
            _pour(archive, file)
            file.flush()
            os.fsync(fd)
        Path(beside).rename(path)
    except BaseException as error:
        Path(beside).unlink()
        if isinstance(error, OSError):
            raise StoreError(f"cannot write {target}: {error.strerror}") from error
        raise


def _pour(archive: Iterable[bytes], file: BinaryIO) -> None:
    for piece in archive:
        file.write(piece)


def _is_replaceable(path: Path) -> bool:
    """Tell whether a new file may take this place. Raises InvalidInput for a directory."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise InvalidInput(f"cannot write {path}: it is a directory; name a file in it")
    return stat.S_ISREG(mode)
