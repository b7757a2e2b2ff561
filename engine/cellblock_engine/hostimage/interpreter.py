"""Which directories of the machine this Python needs, and where they appear in a sandbox.

Trees keep their real paths inside; where a path on the way to the interpreter is a symbolic link
(``/bin``, a virtual environment's ``python``, ``pyenv``'s versions), the link is made inside too,
unless a tree already has it. Looks, and changes nothing.
"""

from __future__ import annotations

import os
import site
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import Unsupported
from .trail import Trail, homes, within

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_NEVER = ("boot", "dev", "etc", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp")
_KERNELS_OWN = ("/dev/", "/proc/", "/sys/")


@dataclass(frozen=True)
class Interpreter:
    """A Python and where its packages are; paths are absolute and as Python itself knows them."""

    executable: str
    prefixes: tuple[str, ...]
    user_site: str | None = None

    @classmethod
    def current(cls) -> Interpreter:
        """Return the running interpreter. Raises Unsupported where it is embedded."""
        if not sys.executable:
            raise Unsupported(
                "this Python does not know its own executable (it is embedded in a program), "
                "so there is nothing to run in the image host: name an image"
            )
        prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
        user_site = site.getusersitepackages() if site.ENABLE_USER_SITE else None
        return cls(
            os.path.abspath(sys.executable),  # noqa: PTH100 - resolve() would follow links
            tuple(dict.fromkeys(prefixes)),
            user_site if user_site and Path(user_site).is_dir() else None,
        )

    @property
    def bin(self) -> str:
        """The directory of the executable."""
        return self.executable.rpartition("/")[0]


@dataclass(frozen=True)
class Places:
    """Trees to mount, each at its own path; links of the skeleton; prefixes as found."""

    trees: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    prefixes: tuple[str, ...]


def places(interpreter: Interpreter, root: Path, forbidden: tuple[Path, ...]) -> Places:
    """Return what of the machine at ``root`` the interpreter and its programs need.

    ``forbidden`` are directories that must not be inside any tree (the store). Raises
    Unsupported where a prefix is too much to show: ``/``, a home, or what holds the store.
    """
    base = str(root).rstrip("/")
    trail = Trail(base)
    trees: list[str] = []
    for name in _SYSTEM:
        if trail.target(name) is None and Path(base + name).is_dir():
            trees.append(name)
    prefixes = [trail.follow(prefix) for prefix in interpreter.prefixes]
    executable = trail.follow(interpreter.executable)
    needed = [*prefixes, executable.rpartition("/")[0].removesuffix("/bin") or "/"]
    if interpreter.user_site is not None:
        needed.append(trail.follow(interpreter.user_site))
    private = homes(trail)
    for tree in sorted(set(needed)):
        if not any(within(tree, other) for other in trees):
            _refuse(tree, private)
            trees.append(tree)
    trees = [t for t in trees if not any(t != other and within(t, other) for other in trees)]
    for tree in trees:
        _refuse_forbidden(tree, tuple(trail.follow(str(path)) for path in forbidden))
    links = {
        path: target
        for path, target in trail.links.items()
        if not any(within(path, tree) for tree in trees)
    }
    return Places(tuple(trees), tuple(sorted(links.items())), tuple(dict.fromkeys(prefixes)))


def _refuse(tree: str, private: set[str]) -> None:
    """Raise Unsupported for a prefix whose tree has more than a Python in it."""
    if tree == "/" or tree[1:] in _NEVER or tree.startswith(_KERNELS_OWN):
        what = "a directory of the system"
    elif any(within(home, tree) for home in private) or tree.rpartition("/")[0] == "/home":
        what = "a home directory, or has one in it"
    else:
        return
    raise Unsupported(
        f"the image host cannot show this Python's prefix {tree}: it is {what}; "
        "run the notebook from a virtual environment in a directory of its own, or name an image"
    )


def _refuse_forbidden(tree: str, forbidden: tuple[str, ...]) -> None:
    for path in forbidden:
        if within(path, tree):
            raise Unsupported(
                f"the image host cannot show {tree}: cellblock's own store is in it ({path}); "
                "set CELLBLOCK_HOME to a directory elsewhere, or name an image"
            )
