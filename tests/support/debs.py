"""Packages of Debian, made without dpkg, so that their files belong to whom one likes. deb(5)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DebFile:
    """A file, or without content a directory, with its owner and mode."""

    content: bytes | None
    uid: int
    gid: int
    mode: int


def deb(name: str, files: Mapping[str, DebFile], postinst: str) -> bytes:
    """Return a package with these files by path, and a script that runs when it is installed."""
    fields = {
        "Package": name,
        "Version": "1",
        "Architecture": "all",
        "Maintainer": "nobody <nobody@example.org>",
        "Description": "made by a test",
    }
    control = "".join(f"{key}: {value}\n" for key, value in fields.items()).encode()
    scripts = {
        "./control": DebFile(control, 0, 0, 0o644),
        "./postinst": DebFile(f"#!/bin/sh\nset -e\n{postinst}".encode(), 0, 0, 0o755),
    }
    members = {
        "debian-binary": b"2.0\n",
        "control.tar": _tar(scripts),
        "data.tar": _tar({f"./{path}": file for path, file in files.items()}),
    }
    return b"!<arch>\n" + b"".join(_member(*member) for member in members.items())


def _tar(files: Mapping[str, DebFile]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, file in files.items():
            entry = tarfile.TarInfo(path)
            entry.uid, entry.gid, entry.mode = file.uid, file.gid, file.mode
            content = file.content or b""
            entry.size = len(content)
            entry.type = tarfile.DIRTYPE if file.content is None else tarfile.REGTYPE
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _member(name: str, content: bytes) -> bytes:
    """Return a member of an archive as ar(5) has it."""
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{0o100644:<8o}{len(content):<10}`\n"
    return header.encode() + content + b"\n" * (len(content) % 2)
