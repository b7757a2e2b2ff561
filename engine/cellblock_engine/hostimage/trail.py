"""Paths of this machine without symbolic links, and the links that led there. Changes nothing."""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass, field

from ..errors import Unsupported

_MAX_LINKS = 40  # as the kernel's own path resolution


@dataclass
class Trail:
    """Resolves paths below ``root`` and keeps the links met on the way."""

    root: str
    links: dict[str, str] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)

    def follow(self, path: str) -> str:
        """Return ``path`` without symbolic links. Raises Unsupported for a loop."""
        done, todo, followed = "", path.split("/")[::-1], 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{part}"
            target = self.target(here)
            if target is None:
                done = here
                continue
            followed += 1
            if followed > _MAX_LINKS:
                raise Unsupported(f"{path} is a loop of symbolic links: name an image instead")
            if target.startswith("/"):
                done = ""
            todo += target.split("/")[::-1]
        return done or "/"

    def target(self, here: str) -> str | None:
        """Return where a link points, None for anything else; asks the kernel once."""
        if here in self.plain:
            return None
        if here not in self.links:
            try:
                self.links[here] = os.readlink(self.root + here)  # noqa: PTH115 - on every start
            except OSError:  # not a link, or not there
                self.plain.add(here)
                return None
        return self.links[here]


def within(path: str, directory: str) -> bool:
    """Tell whether a path is a directory, or below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def homes(trail: Trail) -> set[str]:
    """Return the home directories of whoever asks, and of root."""
    found = {"/root", os.environ.get("HOME", "")}
    with contextlib.suppress(KeyError):  # a user id without an account
        found.add(pwd.getpwuid(os.geteuid()).pw_dir)
    return {trail.follow(home) for home in found if home.startswith("/")} - {"/"}
