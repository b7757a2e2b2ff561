"""Which paths of this machine go into which layer of an image of a Python; makes nothing.

Three layers, so that what seldom changes is shared: the interpreter with its standard library and
what it needs of the system; the packages; the projects that are installed in place or asked for.
What a layer needs of shared libraries is in it, unless a layer below has it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ..errors import InvalidInput, Unsupported
from ..hostimage.trail import Trail, homes, within
from . import ldcache, omissions, system
from .environment import Environment
from .libraries import LOADED_BY_NAME, Libraries, Places, expanded
from .nodes import Draft, Node

_SHARED_PREFIXES = ("/usr", "/usr/local")  # where more than a Python lives
_NEVER = frozenset("/bin /boot /dev /etc /home /lib /lib64 /media /mnt /opt /proc /root /run /sbin "
                   "/srv /sys /tmp /usr /usr/local /var /".split())  # fmt: skip
_NEVER_BELOW = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_SHEBANG_BYTES = 512


@dataclass(frozen=True)
class Layer:
    """One layer: what it is called, what is in it for people, and all of it."""

    name: str
    summary: str
    nodes: tuple[Node, ...]

    @property
    def size_bytes(self) -> int:
        """The sum of its files' sizes."""
        return sum(node.size for node in self.nodes)


@dataclass(frozen=True)
class Plan:
    """What an image of an environment would be, the bottom layer first.

    ``missing`` are libraries that were not found, and a program that needs each; ``left_out`` says
    what else is not in it that might have been expected.
    """

    environment: Environment
    layers: tuple[Layer, ...]
    env: tuple[str, ...]
    working_dir: str
    missing: Mapping[str, str]
    left_out: tuple[str, ...]


def plan(environment: Environment, project: str | None, forbidden: Iterable[str]) -> Plan:
    """Return the plan for an environment, and the folder of a project where one is given.

    ``forbidden`` are directories of which nothing goes in. Raises Unsupported for a prefix that
    has more than a Python in it, InvalidInput for a project that is none, Conflict, OSError.
    """
    return _Planning(environment, project, tuple(forbidden)).plan()


class _Planning:
    def __init__(
        self, environment: Environment, project: str | None, forbidden: tuple[str, ...]
    ) -> None:
        self._of = environment
        self._aside = Trail("")  # for questions whose links do not matter
        self._trail = Trail("")
        self._forbidden = tuple(map(self._aside.follow, forbidden))
        self._homes = homes(self._aside)
        self._project = self._checked_project(project) if project else None
        self._own = [prefix for prefix in environment.prefixes if self._is_own(prefix)]
        self._base = [prefix for prefix in environment.base_prefixes if self._is_own(prefix)]
        self._below: dict[str, Node] = {}
        self._layers: list[Layer] = []
        self._left_out: list[str] = []
        self._unreadable = 0
        self._cache = ldcache.read()
        self._libraries: Libraries | None = None
        self._names: set[str] = set()  # of programs in trees, which others may load by name

    def plan(self) -> Plan:
        of = self._of
        self._interpreter()
        self._packages()
        self._projects()
        if self._unreadable:
            self._left_out.append(f"files and folders that you may not read: {self._unreadable}")
        missing = self._libraries.missing if self._libraries else {}
        folders = (
            *(path.rpartition("/")[0] for path in (of.executable, of.scripts + "/")),
            of.base_executable.rpartition("/")[0],
            *_SYSTEM_PATH.split(":"),
        )
        env = [f"PATH={':'.join(dict.fromkeys(filter(None, folders)))}", "LANG=C.UTF-8"]
        if of.user_site:
            env.append(f"PYTHONUSERBASE={of.user_base}")
        return Plan(
            of,
            tuple(self._layers),
            tuple(env),
            self._project or "/root",
            {name: path for name, path in missing.items() if name not in self._names},
            tuple(self._left_out),
        )

    # The layers

    def _interpreter(self) -> None:
        draft = Draft(self._trail, self._below)
        system.add(draft, self._of)
        program = draft.file(self._of.base_executable)
        if not program:
            raise InvalidInput(
                f"Python {self._of.base_executable} cannot be read, or is no file: give another"
            )
        self._names_of_python(draft, program)
        for folder in self._of.stdlib:
            if os.path.isdir(folder):
                draft.tree(folder, omissions.is_left_out_of_stdlib)
        for path in self._of.path:
            if path.endswith(".zip") and self._is_packages(path):
                draft.file(path)
        if self._of.is_virtual:
            stdlib = self._of.stdlib[0]
            for prefix in self._base:
                self._tree(draft, prefix, omissions.of_prefix(prefix, stdlib, packages=False))
        self._needed(draft, program)
        self._close(draft, "interpreter", f"Python {self._of.version}, {program}")

    def _packages(self) -> None:
        draft = Draft(self._trail, self._below)
        stdlib = self._of.stdlib[0]
        for prefix in self._own:
            self._tree(draft, prefix, omissions.of_prefix(prefix, stdlib, packages=True))
        for path in self._of.path:
            if self._is_packages(path) and path not in self._of.stdlib:
                self._importable(draft, path, omissions.is_left_out)
        if self._of.user_site:
            self._tree(draft, self._of.user_site, omissions.is_left_out)
        if not self._own:
            self._of_shared_prefix(draft)
        self._python_on_path(draft)
        self._needed(draft, "")
        count = len(self._of.packages)
        self._close(draft, "packages", f"{count} package{'s' * (count != 1)}")

    def _projects(self) -> None:
        draft = Draft(self._trail, self._below)
        folders: list[str] = []
        for path in (*self._of.path, *self._of.editable):
            if not os.path.exists(path) or self._is_packages(path):
                continue
            if refused := self._refusal(path):
                self._left_out.append(f"{path}, on sys.path: {refused}")
                continue
            self._importable(draft, path, omissions.of_project(path))
            folders.append(path)
        if self._project:
            self._tree(draft, self._project, omissions.of_project(self._project))
            folders.append(self._project)
        self._needed(draft, "")
        self._close(draft, "project", ", ".join(dict.fromkeys(folders)))

    def _close(self, draft: Draft, name: str, summary: str) -> None:
        nodes = draft.close()
        self._unreadable += draft.unreadable
        if nodes:
            self._below.update((node.path, node) for node in nodes)
            self._layers.append(Layer(name, summary, nodes))

    # Parts of them

    def _tree(self, draft: Draft, path: str, is_left_out: Callable[[str], bool]) -> None:
        """Add a tree without what is forbidden, and what its links name in shared prefixes."""
        real = self._aside.follow(path)
        forbidden = {each[len(real) + 1 :] for each in self._forbidden if within(each, real)}
        if any(within(real, each) for each in self._forbidden):
            raise Unsupported(
                f"{path} cannot be frozen: it is in cellblock's own store; set CELLBLOCK_HOME to "
                "a directory elsewhere"
            )
        links = draft.tree(path, lambda name: name in forbidden or is_left_out(name))
        for link in links:
            self._shared_target(draft, link)

    def _shared_target(self, draft: Draft, link: str) -> None:
        target = os.path.realpath(link)
        if not any(within(target, prefix) for prefix in _SHARED_PREFIXES) or draft.has(target):
            return
        try:
            status = os.lstat(target)
        except OSError:
            return
        if not status.st_mode & stat.S_IROTH:
            return
        if stat.S_ISREG(status.st_mode):
            draft.file(link)
        elif stat.S_ISDIR(status.st_mode) and target.count("/") > 2:
            draft.tree(draft.real(link))

    def _importable(self, draft: Draft, path: str, is_left_out: Callable[[str], bool]) -> None:
        if os.path.isdir(path):
            self._tree(draft, path, is_left_out)
        elif os.path.isfile(path):
            draft.file(path)

    def _names_of_python(self, draft: Draft, program: str) -> None:
        """Add the other names that the interpreter has where it is: python3 of python3.11."""
        folder = self._of.base_executable.rpartition("/")[0]
        version = ".".join(self._of.version.split(".")[:2])
        for name in ("python", "python3", f"python{version}"):
            path = f"{folder}/{name}"
            if os.path.realpath(path) == program:
                draft.real(path)

    def _python_on_path(self, draft: Draft) -> None:
        """Let there be a ``python`` and a ``python3``, whatever the interpreter is called."""
        folders = {
            path.rpartition("/")[0] for path in (self._of.executable, self._of.scripts + "/")
        }
        for name in ("python", "python3"):
            if not any(os.path.exists(f"{folder}/{name}") for folder in folders):
                draft.link(f"/usr/local/bin/{name}", self._of.executable)

    def _of_shared_prefix(self, draft: Draft) -> None:
        """Add what packages have beside their modules: kernels, and console scripts.

        A script is this Python's by its first line.
        """
        of = self._of
        marks = {f"#!{path}".encode() for path in (of.executable, of.base_executable)}
        marks |= {mark.rpartition(b"/")[0] + b"/python3" for mark in marks}
        for folder in dict.fromkeys((of.scripts, of.executable.rpartition("/")[0])):
            kernels = f"{folder.rpartition('/')[0]}/share/jupyter"
            if os.path.isdir(kernels):
                self._tree(draft, kernels, lambda path: path == "runtime")
            with suppress(OSError):
                for name in sorted(os.listdir(folder)):
                    if _first_word(f"{folder}/{name}") in marks:
                        draft.file(f"{folder}/{name}")

    def _needed(self, draft: Draft, program: str) -> None:
        """Add the libraries that the layer's programs need; ``program`` is the interpreter."""
        if program:
            self._libraries = self._loader(draft, program)
        if self._libraries is None:  # a static Python loads nothing
            return
        self._names |= {path.rpartition("/")[2] for path in draft.programs}
        self._libraries.add(dict(draft.programs))
        for path in list(self._libraries.found):
            real = self._aside.follow(path)
            if draft.has(real) or os.stat(real).st_mode & stat.S_IROTH:
                draft.file(path)
            elif (line := f"{path}, a library that others may not read") not in self._left_out:
                self._left_out.append(line)
        entries = ldcache.kept(self._cache, self._libraries.found)
        if entries:
            draft.text(ldcache.PLACE, ldcache.encode(entries))

    def _loader(self, draft: Draft, program: str) -> Libraries | None:
        found = draft.programs.get(program)
        if found is None or found.interpreter is None:
            return None
        if not found.interpreter.startswith("/") or not draft.file(found.interpreter):
            raise InvalidInput(f"Python {program} names a loader that is not here")
        loader = self._aside.follow(found.interpreter)
        places = Places.of(loader, self._of.multiarch, self._cache)
        libraries = Libraries(places, found.kind, expanded(found.rpath, program))
        libraries.add_named(LOADED_BY_NAME)
        return libraries

    # Questions

    def _is_packages(self, path: str) -> bool:
        """Tell a path on sys.path that packages are in, or the standard library, from a project."""
        of = self._of
        if within_any(path, (*self._own, *self._base, *of.stdlib, of.user_site or of.stdlib[0])):
            return True
        shared = within_any(path, (*of.prefixes, *of.base_prefixes))
        return shared and ("-packages" in path or path.endswith(".zip"))

    def _is_own(self, prefix: str) -> bool:
        """Tell a prefix that is a Python's alone from a shared one; refuse what is neither."""
        if prefix in _SHARED_PREFIXES:
            return False
        if refused := self._refusal(prefix):
            raise Unsupported(
                f"the Python in {prefix} cannot be frozen: its prefix {refused}; use a virtual "
                "environment in a folder of its own"
            )
        return True

    def _refusal(self, path: str) -> str:
        """Return why a folder is not taken whole, or nothing."""
        real = self._aside.follow(path)
        if real in _NEVER or within_any(real, _NEVER_BELOW):
            return "is a directory of the system"
        if any(within(home, real) for home in self._homes) or real.rpartition("/")[0] == "/home":
            return "is a home directory, or has one in it"
        return ""

    def _checked_project(self, project: str) -> str:
        path = os.path.abspath(project)
        if not os.path.isdir(path) or not path.isprintable():
            raise InvalidInput(f"the project {project!r} is no folder: give one that exists")
        if refused := self._refusal(path):
            raise InvalidInput(f"the project {project!r} {refused}: give a folder of its own")
        return path


def within_any(path: str, folders: Iterable[str]) -> bool:
    """Tell whether a path is one of these folders, or below one."""
    return any(within(path, folder) for folder in folders)


def _first_word(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.readline(_MAX_SHEBANG_BYTES).split(b" ")[0].strip()
    except OSError:
        return b""
