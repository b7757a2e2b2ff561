"""The shared libraries that programs need, found as the dynamic loader finds them (ld.so(8)).

But for LD_LIBRARY_PATH and variants for newer processors: what is found has to be found in an
image as well, and on another machine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from . import elf, ldcache

_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_DEFAULTS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_MAX_MUSL_BYTES = 2**16

# Loaded by glibc itself when they are needed: to end threads, and to look up users and hosts.
LOADED_BY_NAME = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")


@dataclass(frozen=True)
class Places:
    """Where a loader looks without being told: a cache by name, then folders."""

    cache: Mapping[str, tuple[str, ...]]
    folders: tuple[str, ...]

    @classmethod
    def of(cls, loader: str, multiarch: str, entries: Iterable[ldcache.Entry]) -> Places:
        """Return those of the loader at this real path."""
        name = loader.rpartition("/")[2]
        if name.startswith("ld-musl-"):
            return cls({}, _musl_folders(name))
        cache: dict[str, tuple[str, ...]] = {}
        for entry in entries:
            cache[entry.name] = (*cache.get(entry.name, ()), entry.path)
        own = [f"{folder}/{multiarch}" for folder in ("/lib", "/usr/lib") if multiarch]
        beside = [loader.rpartition("/")[0]] if loader else []
        return cls(cache, tuple(dict.fromkeys((*own, *beside, *_DEFAULTS))))


@dataclass
class Libraries:
    """What some programs need. ``found`` are the libraries' paths, as the loader names them.

    ``missing`` has the names that were not found, and the first program that needs each.
    ``always`` are folders that are searched for all: the RPATH of the interpreter.
    """

    places: Places
    kind: elf.Kind
    always: tuple[str, ...] = ()
    found: dict[str, elf.Elf] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _read: dict[str, elf.Elf | None] = field(default_factory=dict)

    def add(self, programs: Mapping[str, elf.Elf]) -> None:
        """Find what these need, by path, and what that needs in turn."""
        waiting: list[tuple[str, elf.Elf, tuple[str, ...]]]
        waiting = [(path, programs[path], ()) for path in sorted(programs, reverse=True)]
        while waiting:
            path, program, inherited = waiting.pop()
            if program.kind != self.kind:
                continue
            own = () if program.runpath else expanded(program.rpath, path)
            above = (*own, *inherited)
            for name in program.needed:
                library = self._find(name, path, program, above)
                if library is None:
                    self.missing.setdefault(name, path)
                elif library not in self.found:
                    needed = self._elf(library)
                    assert needed is not None
                    self.found[library] = needed
                    waiting.append((library, needed, above))

    def add_named(self, names: Iterable[str]) -> None:
        """Find libraries by name, those that there are."""
        program = elf.Elf(self.kind, None, tuple(names), (), ())
        before = dict(self.missing)
        self.add({"": program})
        self.missing = before

    def _find(self, name: str, path: str, program: elf.Elf, above: tuple[str, ...]) -> str | None:
        if "/" in name:
            candidates: Iterable[str] = (name,) if name.startswith("/") else ()
        else:
            candidates = self._candidates(name, path, program, above)
        for candidate in candidates:
            found = self._elf(candidate)
            if found is not None and found.kind == self.kind:
                return candidate
        return None

    def _candidates(
        self, name: str, path: str, program: elf.Elf, above: tuple[str, ...]
    ) -> Iterator[str]:
        if not program.runpath:
            yield from (f"{folder}/{name}" for folder in (*above, *self.always))
        yield from (f"{folder}/{name}" for folder in expanded(program.runpath, path))
        yield from self.places.cache.get(name, ())
        yield from (f"{folder}/{name}" for folder in self.places.folders)

    def _elf(self, path: str) -> elf.Elf | None:
        if path not in self._read:
            self._read[path] = _library(path)
        return self._read[path]


def expanded(folders: tuple[str, ...], program: str) -> tuple[str, ...]:
    """Return an RPATH of the program at this path, with what ``$ORIGIN`` stands for in it.

    Relative folders, and those with other variables, are left out.
    """
    origin = program.rpartition("/")[0]
    found = []
    for folder in folders:
        plain = folder.replace("${ORIGIN}", "$ORIGIN")
        path = plain.replace("$ORIGIN", origin)
        if path.startswith("/") and "$" not in plain.replace("$ORIGIN", ""):
            found.append(os.path.normpath(path))
    return tuple(found)


def _library(path: str) -> elf.Elf | None:
    try:
        fd = os.open(path, _FILE)
    except (OSError, ValueError):
        return None
    try:
        return elf.read(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _musl_folders(loader: str) -> tuple[str, ...]:
    """Return where musl's loader looks (its ``ldso/dynlink.c``): where its file says, if any."""
    name = loader.removesuffix(".1").removesuffix(".so")
    try:
        with open(os.open(f"/etc/{name}.path", _FILE), "rb") as file:
            text = os.fsdecode(file.read(_MAX_MUSL_BYTES))
    except OSError:
        return ("/lib", "/usr/local/lib", "/usr/lib")
    return tuple(folder for folder in text.replace(":", "\n").split("\n") if folder[:1] == "/")
