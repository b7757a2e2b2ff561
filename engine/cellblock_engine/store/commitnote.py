"""What a container's directory says of the last image that was made of it: a file, ``commit.json``.

Its first line is the image, the second the marks of the files that are in it, so that the next
commit tells only what has changed since. It is written after the image, and never waited for: an
older note, or none, only makes that commit larger.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InvalidDigest
from ..oci.digest import Digest
from .marks import Mark, Marks
from .staging import Staging

_NAME = "commit.json"
_VERSION = 1
_MAX_HEAD_BYTES = 2**17  # of 500 layers at most
_MAX_BYTES = 2**28  # some two million files
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class CommittedImage:
    """An image by what it is made of: its id, which is its config's digest, and the rest."""

    id: Digest
    manifest: Digest
    layers: tuple[Digest, ...]


@dataclass(frozen=True)
class CommitNote:
    """The last image that was made of a container, and the marks of what was written in it."""

    image: CommittedImage
    marks: Marks


def read(directory: Path) -> CommitNote | None:
    """Return what the container in ``directory`` says of its last commit, None for nothing.

    A damaged note is none.
    """
    try:
        with _open(directory) as file:
            image = _image(file.readline(_MAX_HEAD_BYTES))
            content = file.read(_MAX_BYTES + 1)
        if image is None or len(content) > _MAX_BYTES:
            return None
        plain: list[list[Any]] = json.loads(content)
        return CommitNote(image, {os.fsencode(path): Mark(*mark) for path, *mark in plain})
    except (FileNotFoundError, ValueError, TypeError):
        return None


def last_image(directory: Path) -> CommittedImage | None:
    """Return the image of :func:`read`, without reading all."""
    try:
        with _open(directory) as file:
            return _image(file.readline(_MAX_HEAD_BYTES))
    except FileNotFoundError:
        return None


def write(staging: Staging, directory: Path, note: CommitNote) -> None:
    """Put the note there, in place of what was there before. Raises OSError; then that stays.

    A container that was removed meanwhile needs none.
    """
    image = note.image
    head = {
        "version": _VERSION,
        "image": str(image.id),
        "manifest": str(image.manifest),
        "layers": list(map(str, image.layers)),
    }
    plain = [[os.fsdecode(path), *mark] for path, mark in note.marks.items()]
    with staging.file() as (fd, path):
        with open(fd, "w", closefd=False) as file:
            file.write(json.dumps(head) + "\n")
            file.write(json.dumps(plain, separators=(",", ":")) + "\n")
        with suppress(FileNotFoundError):
            path.rename(directory / _NAME)


def _open(directory: Path) -> BinaryIO:
    return open(os.open(directory / _NAME, _READ), "rb")


def _image(line: bytes) -> CommittedImage | None:
    try:
        head = json.loads(line)
        if head["version"] != _VERSION:
            return None
        parsed = map(Digest.parse, (head["image"], head["manifest"], *head["layers"]))
        image, manifest, *layers = parsed
    except (ValueError, KeyError, TypeError, AttributeError, InvalidDigest):
        return None
    return CommittedImage(image, manifest, tuple(layers))
