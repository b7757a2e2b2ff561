"""A notebook's file: one value of its metadata is set, and every other byte stays as it was.

It knows of JSON, and of nbformat 4 what says that a file is a notebook; nothing of images.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellblock_engine import Conflict, InvalidInput

MOST_BYTES = 256 << 20
_FORMAT = 4
_SPACE = re.compile(r"[ \t\r\n]*")
_INDENT = re.compile(r"\{(\r?\n)([ \t]*)")
_METADATA = "metadata"
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Notebook:
    """A notebook as it was read; ``path`` is where it is, all links followed."""

    path: Path
    text: str
    metadata: Mapping[str, Any]
    state: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """Return the notebook in a file. Raises InvalidInput for what is none."""
        real = Path(os.path.realpath(path))
        try:
            fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe has no writer
            with open(fd, "rb") as file:
                found = os.fstat(fd)
                raw = file.read(MOST_BYTES + 1) if stat.S_ISREG(found.st_mode) else None
        except OSError as error:
            raise InvalidInput(f"cannot read notebook {path}: {error.strerror}") from error
        if raw is None:
            raise InvalidInput(f"{path} is no notebook: it is no ordinary file")
        try:
            text, metadata = _parsed(raw)
        except (ValueError, RecursionError) as error:
            why = " ".join(str(error).split())[:120]
            raise InvalidInput(f"{path} is no notebook: {why}") from error
        return cls(real, text, metadata, _state(found))

    def with_metadata(self, key: str, value: object) -> bytes:
        """Return the file's content with this value in the notebook's metadata.

        Raises InvalidInput for a value of the notebook's own that is nested too deep.
        """
        try:
            return _replaced(self.text, key, value).encode()
        except RecursionError:
            raise InvalidInput(f"the metadata {key!r} of {self.path} is nested too deep") from None

    def replace(self, content: bytes) -> None:
        """Put other content in its place, at once; mode, owner and attributes stay.

        Raises Conflict where it was changed since it was read, InvalidInput where it cannot be
        written.
        """
        try:
            unchanged = _state(self.path.stat()) == self.state
        except OSError:
            unchanged = False
        if not unchanged:
            raise Conflict(f"{self.path} was changed meanwhile, and is left alone: try again")
        with Place.of(self.path) as place:
            place.write(content)


@dataclass(frozen=True)
class Place:
    """Where a file is or is to be: its name in a directory that stays open.

    Whoever else may write there, a container among them, cannot lead what is written elsewhere.
    """

    path: Path
    directory: int

    @classmethod
    @contextmanager
    def of(cls, path: Path) -> Iterator[Place]:
        """Give the place of a path, its folder's links followed now. Raises InvalidInput.

        A link at the path itself is replaced: a container may have put it there.
        """
        real = Path(os.path.realpath(path.parent), path.name)
        try:
            directory = os.open(real.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
        try:
            yield cls(real, directory)
        finally:
            os.close(directory)

    def write(self, content: bytes) -> None:
        """Write a file that is there whole or not at all; one that was there lends mode and owner.

        Raises InvalidInput where it cannot be written.
        """
        name, beside = self.path.name, f".{self.path.name[:200]}.{secrets.token_hex(4)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(beside, flags, 0o600, dir_fd=self.directory)
            try:
                with open(fd, "wb") as file:
                    file.write(content)
                    file.flush()
                    self._resemble(fd)
                    os.fsync(fd)
                os.rename(beside, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            except BaseException:
                os.unlink(beside, dir_fd=self.directory)
                raise
        except OSError as error:
            raise InvalidInput(f"cannot write {self.path}: {error.strerror}") from error

    def _resemble(self, new: int) -> None:
        """Give a new file the mode, owner and attributes of the one in whose place it comes."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            old = os.open(self.path.name, flags, dir_fd=self.directory)
        except OSError:  # it is not there, is a link, or cannot be read
            os.fchmod(new, 0o666 & ~_umask())
            return
        try:
            found = os.fstat(old)
            os.fchown(new, found.st_uid, found.st_gid)
            os.fchmod(new, found.st_mode & 0o777)
            for attribute in os.listxattr(old):
                with suppress(OSError):  # a label of the system's
                    os.setxattr(new, attribute, os.getxattr(old, attribute))
        finally:
            os.close(old)


def _umask() -> int:
    """Return what new files lack; asking umask(2) would set it, for other threads too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _parsed(raw: bytes) -> tuple[str, Mapping[str, Any]]:
    """Return text and metadata of a notebook. Raises ValueError for what is none."""
    if len(raw) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    text = raw.decode()
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise ValueError("it has no cells, as a notebook of nbformat 4 has")  # noqa: TRY004 - one kind
    metadata, version = document.get(_METADATA), document.get("nbformat")
    if not isinstance(metadata, dict):
        raise ValueError("it has no metadata")  # noqa: TRY004 - as above
    if version != _FORMAT:
        raise ValueError(f"its nbformat is not {_FORMAT}: convert it with jupyter nbconvert")
    return text, metadata


@dataclass(frozen=True)
class _Member:
    """A member of a JSON object: its name, and where name and value are in the text."""

    name: str
    start: int
    value: int
    end: int


def _members(text: str, at: int) -> Iterator[_Member]:
    """Yield the members of the valid object that begins at ``at``."""
    decoder = json.JSONDecoder()
    at = _past_space(text, at + 1)
    while text[at] != "}":
        name, end = decoder.raw_decode(text, at)
        value = _past_space(text, _past_space(text, end) + 1)  # the colon
        _, end = decoder.raw_decode(text, value)
        yield _Member(name, at, value, end)
        at = _past_space(text, end)
        if text[at] == ",":
            at = _past_space(text, at + 1)


def _replaced(text: str, key: str, value: object) -> str:
    """Return a notebook's text with one member of its metadata set, in its own style."""
    top = _past_space(text, 0)
    *_, metadata = (each for each in _members(text, top) if each.name == _METADATA)
    inside = list(_members(text, metadata.value))
    indent = _INDENT.match(text, top)
    step, outer, inner = "", "", " "
    written = _json(value, None)
    if indent is not None:
        newline, step = indent[1], indent[2]
        outer, inner = newline + step, newline + 2 * step
        written = _json(value, step)
        written = written.replace("\n", inner)
    for each in reversed(inside):  # of two of one name the last counts
        if each.name == key:
            return text[: each.value] + written + text[each.end :]
    member = f"{json.dumps(key)}: {written}"
    following = next((each for each in inside if each.name > key), None)  # nbformat sorts them
    if following is not None:
        return f"{text[: following.start]}{member},{inner}{text[following.start :]}"
    if inside:
        return f"{text[: inside[-1].end]},{inner}{member}{text[inside[-1].end :]}"
    begin = inner if indent is not None else ""
    return f"{text[: metadata.value]}{{{begin}{member}{outer}}}{text[metadata.end :]}"


def _json(value: object, indent: str | None) -> str:
    """Return JSON that can be encoded: a half of a surrogate pair is written as such."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=indent)
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
