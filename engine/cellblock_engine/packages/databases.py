"""What the files of package tools say is installed; no I/O.

Python's `.dist-info` and `.egg-info` (packaging.python.org, *Recording installed projects*),
dpkg's `status` (deb822(5)), and apk's `installed`. All are written by whoever made the image: what
has the form of no package is left out, and names and versions cannot steer a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LONGEST = 200
_PYTHON_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_*:~-]*")
_INFO_SUFFIXES = (".dist-info", ".egg-info")

Named = tuple[str, str]
"""The name of a package, and its version."""


def python_package(folder: str, metadata: bytes) -> Named | None:
    """Return what a folder of package information tells, by its file or else by its own name."""
    head = metadata.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    fields = _fields(head)
    told = _python(fields.get("name", ""), fields.get("version", ""))
    return told or _python(*_named(folder))


def is_python_information(name: str) -> bool:
    """Tell whether a file or folder in ``site-packages`` tells of a package."""
    return name.endswith(_INFO_SUFFIXES)


def debian_packages(status: bytes, *, every: bool = False) -> Iterator[Named]:
    """Yield what dpkg has installed; with ``every``, also what no status is told of.

    As in images without dpkg, which have only the paragraphs.
    """
    for fields in map(_fields, _paragraphs(status)):
        state = fields.get("status", "").split()
        if state[-1:] == ["installed"] or (every and not state):
            yield from _plain(fields.get("package", ""), fields.get("version", ""))


def alpine_packages(installed: bytes) -> Iterator[Named]:
    """Yield what apk has installed."""
    for fields in map(_fields, _paragraphs(installed)):
        yield from _plain(fields.get("p", ""), fields.get("v", ""))


def _paragraphs(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n\n", start)
        end = len(content) if end < 0 else end
        yield content[start:end]
        start = end + 2


def _fields(paragraph: bytes) -> dict[str, str]:
    """Return the fields of one line, by name in small letters; the first of a name counts."""
    found: dict[str, str] = {}
    for line in paragraph.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and name[:1].isalpha() and len(name) <= _LONGEST:
            key = name.decode("ascii", "replace").lower()
            found.setdefault(key, value[: 4 * _LONGEST].decode("ascii", "replace").strip())
    return found


def _named(folder: str) -> tuple[str, str]:
    """Return what ``NAME-VERSION.dist-info`` or ``NAME-VERSION-py3.12.egg-info`` says."""
    stem = folder.rpartition(".")[0]
    name, _, version = stem.partition("-")
    return name, version.partition("-")[0]


def _python(name: str, version: str) -> Named | None:
    if len(name) > _LONGEST or not _PYTHON_NAME.fullmatch(name):
        return None
    return re.sub(r"[-_.]+", "-", name).lower(), _version(version)


def _plain(name: str, version: str) -> Iterator[Named]:
    if len(name) <= _LONGEST and _NAME.fullmatch(name):
        yield name, _version(version)


def _version(version: str) -> str:
    return version if len(version) <= _LONGEST and _VERSION.fullmatch(version) else ""
